//! What `torch.save` makes of a `state_dict`: a zip archive with a pickle that describes tensors and a file for the elements of each storage.
use super::{
    Weights,
    pickle::{self, Value},
};
use crate::{
    error::{At, Error, Result},
    ir::{DType, Data, Tensor},
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    io::{Cursor, Read},
};
use zip::{CompressionMethod, ZipArchive};

/// Pickles that are larger describe no network.
const MOST: u64 = 64 << 20;

/// Where dictionaries of checkpoints keep the weights.
const INSIDE: [&str; 3] = ["state_dict", "model_state_dict", "model"];

type Archive = ZipArchive<Cursor<Bytes>>;

/// Elements by the key of their storage: several tensors may lie in one.
type Storages = HashMap<String, Bytes>;

/// All tensors of the `state_dict`.
pub(super) fn read(bytes: &Bytes) -> Result<Weights> {
    let mut archive = ZipArchive::new(Cursor::new(bytes.clone())).map_err(|e| archive_broken(&e))?;
    let names = archive.file_names().map(|n| n.map(String::from)).collect::<std::result::Result<Vec<_>, _>>();
    let names = names.map_err(|e| archive_broken(&e))?;
    let Some(root) = names.iter().find_map(|n| n.strip_suffix("data.pkl")) else {
        return Err(Error::malformed("a zip archive without data.pkl")
            .cure("save the state_dict by torch.save of PyTorch 1.6 or later"));
    };
    if names.iter().any(|n| n == &format!("{root}constants.pkl")) {
        return Err(Error::unsupported("a TorchScript archive").cure("save the state_dict of the network instead"));
    }
    if let Ok(order) = file(&mut archive, &format!("{root}byteorder"), 16)
        && order.starts_with(b"big")
    {
        return Err(Error::unsupported("elements in big-endian order").cure("save it on a little-endian machine"));
    }
    let value = pickle::read(&file(&mut archive, &format!("{root}data.pkl"), MOST)?)?;
    let inside = INSIDE.iter().find_map(|key| value.get(key).filter(|v| matches!(v, Value::Dict(_))));
    let Value::Dict(entries) = inside.unwrap_or(&value) else {
        return Err(Error::unsupported("a pickle that is no dictionary").cure("save net.state_dict(), not the network"));
    };
    let (mut weights, mut storages) = (Weights::new(), Storages::new());
    for (name, value) in entries {
        let Value::Text(name) = name else {
            return Err(Error::malformed("a state_dict with a key that is no text").cure("save net.state_dict() alone"));
        };
        weights.insert(
            name.clone(),
            tensor((&mut archive, &mut storages), root, value).at(|| format!("tensor '{name}'"))?,
        );
    }
    Ok(weights)
}

fn archive_broken(e: &zip::result::ZipError) -> Error {
    Error::malformed(format!("a broken zip archive: {e}")).cure("get the file again")
}

fn file(archive: &mut Archive, name: &str, most: u64) -> Result<Vec<u8>> {
    let entry = archive.by_name(name).map_err(|e| archive_broken(&e).at(name))?;
    // torch.save compresses nothing; what is compressed can be of any size.
    if entry.compression() != CompressionMethod::Stored {
        return Err(Error::unsupported(format!("'{name}' is compressed")).cure("save it again by torch.save"));
    }
    let size = entry.size();
    let broken = |what: String| Error::malformed(format!("'{name}' {what}")).cure("get the file again");
    if size > most {
        return Err(broken(format!("has {size} bytes, at most {most} make sense")));
    }
    let mut bytes = Vec::new();
    // The size that an archive claims may be a lie.
    entry.take(most + 1).read_to_end(&mut bytes).map_err(|e| broken(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 != size {
        return Err(broken(format!("has {} bytes, the archive says {size}", bytes.len())));
    }
    Ok(bytes)
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, ...)`, also as a parameter.
fn tensor((archive, storages): (&mut Archive, &mut Storages), root: &str, value: &Value) -> Result<Tensor> {
    let foreign = || {
        Error::unsupported("an entry that is no tensor")
            .cure("save net.state_dict() alone: not the network, not the optimizer")
    };
    let Value::Call(call) = value else { return Err(foreign()) };
    let (function, Value::List(arguments)) = &**call else { return Err(foreign()) };
    if function.is("torch._utils", "_rebuild_parameter") {
        return tensor((archive, storages), root, arguments.first().ok_or_else(foreign)?);
    }
    if !function.is("torch._utils", "_rebuild_tensor_v2") {
        return Err(foreign());
    }
    let [Value::Persistent(storage), Value::Int(offset), Value::List(size), Value::List(stride), ..] = &arguments[..]
    else {
        return Err(foreign());
    };
    let Value::List(storage) = &**storage else { return Err(foreign()) };
    let [Value::Text(_), Value::Global(module, class), Value::Text(key), _, Value::Int(length)] = &storage[..] else {
        return Err(foreign());
    };
    let dtype = dtype(module, class)?;
    let numbers = |values: &[Value]| {
        values
            .iter()
            .map(|v| if let Value::Int(n) = v { usize::try_from(*n).ok() } else { None })
            .collect::<Option<Vec<_>>>()
    };
    let bad = |what: &str| Error::malformed(format!("a tensor {what}")).cure("save the state_dict again");
    let sizes = numbers(size).ok_or_else(|| bad("with a size that is no number"))?;
    let strides = numbers(stride).filter(|s| s.len() == sizes.len()).ok_or_else(|| bad("with unfitting strides"))?;
    let [offset, length] =
        [*offset, *length].map(|n| usize::try_from(n).map_err(|_| bad("that lies outside of its storage")));
    let (offset, length) = (offset?, length?);
    let bytes = length.checked_mul(dtype.size()).ok_or_else(|| bad("that is larger than any memory"))?;
    if !storages.contains_key(key) {
        storages.insert(key.clone(), file(archive, &format!("{root}data/{key}"), bytes as u64)?.into());
    }
    let elements = &storages[key];
    if elements.len() != bytes {
        return Err(bad(&format!("whose storage holds {} bytes in place of {bytes}", elements.len())));
    }
    let picked = gather(elements, dtype.size(), offset, &sizes, &strides)
        .ok_or_else(|| bad("that lies outside of its storage"))?;
    Tensor::new(sizes, Data::from_bytes(dtype, picked.into())?)
}

/// The elements in the order of their indices, of storage in any order.
fn gather(storage: &[u8], width: usize, offset: usize, sizes: &[usize], strides: &[usize]) -> Option<Vec<u8>> {
    let n = sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size))?;
    if n == 0 {
        return Some(Vec::new());
    }
    let reach = sizes.iter().zip(strides).try_fold(offset, |at, (n, s)| (n - 1).checked_mul(*s)?.checked_add(at))?;
    // Elements may repeat (stride 0), but a tensor larger than its storage is no weight.
    if reach >= storage.len() / width || n > storage.len() / width {
        return None;
    }
    let mut out = Vec::with_capacity(n * width);
    let mut index = vec![0; sizes.len()];
    for _ in 0..n {
        let at = offset + index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
        out.extend_from_slice(&storage[at * width..][..width]);
        for axis in (0..sizes.len()).rev() {
            index[axis] += 1;
            if index[axis] < sizes[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Some(out)
}

fn dtype(module: &str, class: &str) -> Result<DType> {
    Ok(match (module, class) {
        ("torch", "FloatStorage") => DType::F32,
        ("torch", "DoubleStorage") => DType::F64,
        ("torch", "HalfStorage") => DType::F16,
        ("torch", "BFloat16Storage") => DType::BF16,
        ("torch", "CharStorage") => DType::I8,
        ("torch", "ShortStorage") => DType::I16,
        ("torch", "IntStorage") => DType::I32,
        ("torch", "LongStorage") => DType::I64,
        ("torch", "ByteStorage") => DType::U8,
        ("torch", "BoolStorage") => DType::Bool,
        _ => {
            return Err(
                Error::unsupported(format!("a storage of the type {module}.{class}")).cure("save it as float32")
            );
        }
    })
}
