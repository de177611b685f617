//! The format safetensors.
use super::Weights;
use crate::{
    error::{At, Error, Result},
    ir::{DType, Data, Tensor},
};
use bytes::Bytes;
use safetensors::{Dtype, SafeTensors};

/// All tensors.
pub(super) fn read(bytes: &Bytes) -> Result<Weights> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| {
        Error::malformed(format!("neither safetensors nor a zip archive of torch.save: {e}"))
            .cure("save a state_dict by safetensors.torch.save_file or by torch.save")
    })?;
    let one = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let data = Data::from_bytes(dtype(view.dtype()).at(|| name.clone())?, bytes.slice_ref(view.data()));
        let tensor = data.and_then(|data| Tensor::new(view.shape().to_vec(), data)).at(|| name.clone())?;
        Ok((name, tensor))
    };
    file.tensors().into_iter().map(one).collect()
}

fn dtype(theirs: Dtype) -> Result<DType> {
    Ok(match theirs {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I8 => DType::I8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::U8 => DType::U8,
        Dtype::U16 => DType::U16,
        Dtype::U32 => DType::U32,
        Dtype::U64 => DType::U64,
        Dtype::BOOL => DType::Bool,
        other => {
            return Err(Error::unsupported(format!("elements of the type {other:?}")).cure("save it as F32"));
        }
    })
}
