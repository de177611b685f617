//! Preprocessing as plain data: what turns a sample into a model's input.
use super::{
    dataset::Sample,
    image::Image,
    resize::{Filter, resize},
};
use crate::{
    error::{At, Error, ErrorKind, Result},
    ir::{Dim, Shape, Tensor},
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Colour channels and their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// Red, green, blue; gray is repeated.
    Rgb,
    /// Blue, green, red; gray is repeated.
    Bgr,
    /// One channel, see [`Image::to_gray`].
    Gray,
}

/// Order of the dimensions of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Batch, channel, row, column.
    Nchw,
    /// Batch, row, column, channel.
    Nhwc,
}

/// A change of size: either `shorter`, or `height` and `width`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The new length of the shorter side; the longer one becomes `floor(shorter * long / short)`, as in torchvision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shorter: Option<usize>,
    /// The new number of rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<usize>,
    /// The new number of columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// The interpolation.
    #[serde(default)]
    pub filter: Filter,
    /// Images that have the size of the crop already are taken as they are: for data sets that were cropped before.
    #[serde(default)]
    pub unless_cropped: bool,
}

/// What is done to each sample, in the order of the fields:
/// `y[c] = (x[c] / divide - mean[c]) / std[c]` after colour, resize and crop, in binary32, with divisions as torchvision
/// does them (`ToTensor`, `Normalize`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// The channels. Absent: RGB for image files, as stored for everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
    /// The change of size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Centre crop: rows, columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<[usize; 2]>,
    /// What 8-bit values are divided by: 255, 127.5 or 1 (the default: nothing).
    #[serde(default = "one")]
    pub divide: f32,
    /// Subtracted after the division: one per channel (in the channels' final order), one for all, or absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f32>,
    /// Divided by in the end: one per channel, one for all, or absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f32>,
    /// The order of dimensions. Absent: NCHW for images, as stored for arrays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
}

fn one() -> f32 {
    1.0
}

impl Default for Preprocess {
    /// [`Preprocess::raw`].
    fn default() -> Self {
        Self::raw()
    }
}

/// Names of the presets, as [`Preprocess::from_arg`] takes them.
pub const PRESETS: [&str; 5] = ["imagenet", "cifar10", "mnist", "inception", "raw"];

const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl Preprocess {
    /// Values as stored: images as RGB 0..255 in NCHW, arrays untouched.
    pub fn raw() -> Self {
        Self { color: None, resize: None, crop: None, divide: 1.0, mean: vec![], std: vec![], layout: None }
    }
    /// The evaluation of torchvision's classifiers: RGB, shorter side to 256 (bilinear, antialiased), centre crop
    /// 224 x 224, `/ 255`, ImageNet mean and deviation, NCHW. Images of exactly 224 x 224 are not resized.
    pub fn imagenet() -> Self {
        Self { divide: 255.0, mean: IMAGENET_MEAN.into(), std: IMAGENET_STD.into(), ..Self::inception() }
    }
    /// As [`Preprocess::imagenet`] with `x / 127.5 - 1` for the values.
    pub fn inception() -> Self {
        let resize = Resize { shorter: Some(256), unless_cropped: true, ..Resize::default() };
        Self {
            color: Some(Color::Rgb),
            resize: Some(resize),
            crop: Some([224, 224]),
            divide: 127.5,
            mean: vec![1.0],
            std: vec![],
            layout: Some(Layout::Nchw),
        }
    }
    /// RGB as stored (32 x 32), `/ 255`, ImageNet mean and deviation, NCHW.
    pub fn cifar10() -> Self {
        Self { resize: None, crop: None, ..Self::imagenet() }
    }
    /// Gray as stored (28 x 28), `/ 255`, NCHW.
    pub fn mnist() -> Self {
        Self { color: Some(Color::Gray), divide: 255.0, layout: Some(Layout::Nchw), ..Self::raw() }
    }
    /// A preset by name.
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "imagenet" => Self::imagenet(),
            "cifar10" => Self::cifar10(),
            "mnist" => Self::mnist(),
            "inception" => Self::inception(),
            "raw" => Self::raw(),
            _ => return None,
        })
    }
    /// A preset's name or the path of a TOML file.
    ///
    /// # Errors
    /// When it is neither, or the file says what cannot be.
    pub fn from_arg(arg: &str) -> Result<Self> {
        if let Some(preset) = Self::preset(arg) {
            return Ok(preset);
        }
        let path = Path::new(arg);
        if !path.is_file() {
            return Err(Error::usage(format!("no preprocessing preset and no file is called {arg:?}"))
                .cure(format!("use one of {} or the path of a TOML file", PRESETS.join(", "))));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::from_toml(&text).at(|| path.display())
    }
    /// Reads the TOML form (see `docs/data.md`).
    ///
    /// # Errors
    /// On malformed TOML, unknown keys (the message lists the known ones) and values that make no sense.
    pub fn from_toml(text: &str) -> Result<Self> {
        let this: Self = toml::from_str(text).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))?;
        this.check()?;
        Ok(this)
    }
    /// The TOML form.
    ///
    /// # Errors
    /// Never in practice: the type holds nothing that TOML cannot say.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::internal(e.to_string()))
    }

    /// Whether the fields fit each other.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<()> {
        let bad = |field: &str, what: String| Err(Error::usage(what).at(format!("preprocessing, {field}")));
        if let Some(r) = &self.resize {
            match (r.shorter, r.height, r.width) {
                (Some(n), None, None) if n > 0 => {}
                (None, Some(h), Some(w)) if h > 0 && w > 0 => {}
                _ => return bad("resize", "give either `shorter`, or `height` and `width`, above 0".into()),
            }
            if r.unless_cropped && self.crop.is_none() {
                return bad("resize", "`unless_cropped` needs a `crop`".into());
            }
        }
        if self.crop.is_some_and(|c| c.contains(&0)) {
            return bad("crop", "rows and columns must be above 0".into());
        }
        if !(self.divide.is_finite() && self.divide > 0.0) {
            return bad("divide", format!("must be finite and above 0, found {}", self.divide));
        }
        if let Some(x) = self.mean.iter().find(|x| !x.is_finite()) {
            return bad("mean", format!("must be finite, found {x}"));
        }
        if let Some(x) = self.std.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
            return bad("std", format!("must be finite and above 0, found {x}"));
        }
        for (field, values) in [("mean", &self.mean), ("std", &self.std)] {
            let channels = self.color.map(|c| if c == Color::Gray { 1 } else { 3 });
            if values.len() > 1 && channels.is_some_and(|c| c != values.len()) {
                let what = format!("{} values for {} channels", values.len(), channels.unwrap_or(0));
                return bad(field, what);
            }
        }
        Ok(())
    }

    /// Turns a sample into a model's input without the batch dimension (binary32).
    ///
    /// # Errors
    /// When the sample is too small for the crop, is no image but would have to be resized, or has other channels than
    /// mean and deviation.
    pub fn apply(&self, sample: Sample) -> Result<Tensor> {
        match sample {
            Sample::Image { image, file } => self.apply_image(image, file),
            Sample::Array(tensor, layout) => self.apply_array(&tensor, layout),
        }
    }

    fn apply_image(&self, image: Image, file: bool) -> Result<Tensor> {
        let (image, swap) = match self.color {
            Some(Color::Gray) => (image.to_gray(), false),
            Some(Color::Rgb) => (image.to_rgb(), false),
            Some(Color::Bgr) => (image.to_rgb(), true),
            None if file => (image.to_rgb(), false),
            None => (image, false),
        };
        let image = self.resize_and_crop(image)?;
        let (channels, area) = (image.channels, image.width * image.height);
        let mut out = vec![0f32; channels * area];
        let nhwc = self.layout == Some(Layout::Nhwc);
        for c in 0..channels {
            let table = self.table(c, channels)?;
            let from = if swap { channels - 1 - c } else { c };
            let pixels = image.pixels.chunks_exact(channels).map(|p| table[usize::from(p[from])]);
            if nhwc {
                out.iter_mut().skip(c).step_by(channels).zip(pixels).for_each(|(o, p)| *o = p);
            } else {
                out[c * area..][..area].iter_mut().zip(pixels).for_each(|(o, p)| *o = p);
            }
        }
        let shape = if nhwc { [image.height, image.width, channels] } else { [channels, image.height, image.width] };
        Ok(Tensor::of(&shape, out))
    }

    fn resize_and_crop(&self, mut image: Image) -> Result<Image> {
        let cropped = self.crop == Some([image.height, image.width]);
        if let Some(r) = self.resize.as_ref().filter(|r| !(r.unless_cropped && cropped)) {
            let (width, height) = match (r.shorter, r.height, r.width) {
                (Some(n), ..) => {
                    let (w, h) = (image.width, image.height);
                    let long = |long: usize, short: usize| n.saturating_mul(long) / short;
                    if w <= h { (n, long(h, w)) } else { (long(w, h), n) }
                }
                (None, Some(h), Some(w)) => (w, h),
                _ => return Err(Error::usage("resize needs either `shorter`, or `height` and `width`")),
            };
            image = resize(&image, width, height, r.filter)?;
        }
        if let Some([h, w]) = self.crop.filter(|c| *c != [image.height, image.width]) {
            // torchvision rounds half a pixel to even.
            let half = |room: usize| if room % 4 == 3 { room / 2 + 1 } else { room / 2 };
            image = image.crop(half(image.height.saturating_sub(h)), half(image.width.saturating_sub(w)), h, w)?;
        }
        Ok(image)
    }

    /// Arrays of 8 bits whose channels can be told are images; all others are numbers: no size or colour can be changed.
    fn apply_array(&self, tensor: &Tensor, layout: Option<Layout>) -> Result<Tensor> {
        let shape = tensor.shape();
        if self.layout.is_none() && self.color.is_none() && self.resize.is_none() && self.crop.is_none() {
            let channels = match (shape, layout) {
                (&[c, _, _], Some(Layout::Nchw)) | (&[_, _, c], Some(Layout::Nhwc)) => Some(c),
                _ => None,
            };
            return self.numbers(tensor, channels, layout.unwrap_or(Layout::Nchw));
        }
        let stored = layout.or_else(|| guess_layout(shape));
        if let (Ok(bytes), [_, _, _], Some(stored)) = (tensor.as_slice::<u8>(), shape, stored) {
            return self.apply_image(to_image(shape, bytes, stored)?, false).at(|| format!("an array of {shape:?}"));
        }
        let refuse = |what: &str| {
            let cure = "resizing, cropping and colours need u8 samples of 1 or 3 channels; use the preset `raw` or a TOML \
                        file without them for data that is prepared already";
            Error::usage(format!("cannot {what} samples of {} {shape:?}", tensor.dtype())).cure(cure)
        };
        if self.resize.is_some() {
            return Err(refuse("resize"));
        }
        if let Some(crop) = self.crop {
            return Err(refuse(&format!("crop to {crop:?}")));
        }
        if self.color == Some(Color::Bgr) {
            return Err(refuse("swap the colours of"));
        }
        let wanted = self.layout.unwrap_or(Layout::Nchw);
        let (moved, channels) = match (shape, stored) {
            (&[a, b, c], Some(stored)) if stored != wanted => {
                let (from, channels) = if stored == Layout::Nhwc { ([2, 0, 1], c) } else { ([1, 2, 0], a) };
                let (moved, dims) = (permute(&tensor.to_f32s(), [a, b, c], from), from.map(|d| shape[d]));
                (Some(Tensor::of(&dims, moved)), Some(channels))
            }
            (&[a, _, c], Some(stored)) => (None, Some(if stored == Layout::Nhwc { c } else { a })),
            _ => (None, None),
        };
        if let (Some(color), Some(channels)) = (self.color, channels) {
            let expected = if color == Color::Gray { 1 } else { 3 };
            if channels != expected {
                return Err(refuse(&format!("change the {channels} channels to {expected} of")));
            }
        }
        self.numbers(moved.as_ref().unwrap_or(tensor), channels, wanted)
    }

    fn numbers(&self, tensor: &Tensor, channels: Option<usize>, layout: Layout) -> Result<Tensor> {
        let mut out = tensor.to_f32s();
        let per_channel = self.mean.len() > 1 || self.std.len() > 1;
        let n = match (per_channel, channels) {
            (false, _) => 1,
            (true, Some(n)) => n,
            (true, None) => {
                return Err(Error::usage(format!(
                    "mean and std per channel, but which dimension of {:?} holds the channels \
                    is unknown",
                    tensor.shape()
                ))
                .cure("set the layout of the array"));
            }
        };
        let inner = match layout {
            Layout::Nchw => out.len() / n.max(1),
            Layout::Nhwc => 1,
        };
        for c in 0..n {
            let (mean, std) = self.mean_std(c, n)?;
            for run in out.chunks_exact_mut(inner.max(1)).skip(c).step_by(n) {
                run.iter_mut().for_each(|x| *x = (*x / self.divide - mean) / std);
            }
        }
        Ok(Tensor::of(tensor.shape(), out))
    }

    /// What is subtracted from the values of a channel, and what they are divided by then.
    ///
    /// # Errors
    /// When there are numbers for other channels.
    pub fn mean_std(&self, channel: usize, channels: usize) -> Result<(f32, f32)> {
        let pick = |values: &[f32], name: &str, absent: f32| match values {
            [] => Ok(absent),
            [one] => Ok(*one),
            all if all.len() == channels => Ok(all[channel]),
            all => Err(Error::usage(format!("{} values of {name} for samples of {channels} channels", all.len()))),
        };
        Ok((pick(&self.mean, "mean", 0.0)?, pick(&self.std, "std", 1.0)?))
    }

    /// The result for each 8-bit value.
    fn table(&self, channel: usize, channels: usize) -> Result<[f32; 256]> {
        let (mean, std) = self.mean_std(channel, channels)?;
        Ok(std::array::from_fn(|x| (x as f32 / self.divide - mean) / std))
    }

    /// Whether samples of `found` (without the batch dimension, as [`Preprocess::apply`] gives them) suit a model's input.
    ///
    /// # Errors
    /// Names the expected and the found shape, and what to change.
    pub fn fits(&self, found: &[usize], input: &Shape) -> Result<()> {
        let expected = input.0.get(1..).unwrap_or_default();
        let same = |e: &[Dim], f: &[usize]| {
            e.len() == f.len() && e.iter().zip(f).all(|(e, f)| e.fixed().is_none_or(|e| e == *f))
        };
        if input.rank() > 0 && same(expected, found) {
            return Ok(());
        }
        let mut batch = vec![Dim::sym("N")];
        batch.extend(found.iter().map(|&d| Dim::Fixed(d)));
        let cause = format!("the model's input is {input}, but the data gives {} after preprocessing", Shape(batch));
        Err(Error::shape(cause).cure(cure_for(found, expected, same)))
    }
}

fn cure_for(found: &[usize], expected: &[Dim], same: impl Fn(&[Dim], &[usize]) -> bool) -> String {
    if let &[a, b, c] = found {
        if same(expected, &[b, c, a]) {
            return "set layout = \"nhwc\" in the preprocessing".into();
        }
        if same(expected, &[c, a, b]) {
            return "set layout = \"nchw\" in the preprocessing".into();
        }
        if let [Some(channels), Some(h), Some(w)] = [0, 1, 2].map(|i| expected.get(i).and_then(Dim::fixed)) {
            if (h, w) == (b, c) && channels == 1 {
                return "set color = \"gray\" in the preprocessing".into();
            }
            if (h, w) == (b, c) && channels == 3 {
                return "set color = \"rgb\" in the preprocessing".into();
            }
            if channels == a {
                return format!(
                    "set crop = [{h}, {w}] or resize = {{ height = {h}, width = {w} }} in the preprocessing"
                );
            }
        }
    }
    "choose the preprocessing that the model was trained with, or another data set".into()
}

/// Which end of a three-dimensional sample counts colours, when that is clear.
fn guess_layout(shape: &[usize]) -> Option<Layout> {
    let colours = |n: usize| n == 1 || n == 3;
    match *shape {
        [a, _, c] if colours(a) && !colours(c) => Some(Layout::Nchw),
        [a, _, c] if colours(c) && !colours(a) => Some(Layout::Nhwc),
        _ => None,
    }
}

fn to_image(shape: &[usize], bytes: &[u8], stored: Layout) -> Result<Image> {
    let dims = [shape[0], shape[1], shape[2]];
    match stored {
        Layout::Nhwc => Image::new(dims[1], dims[0], dims[2], bytes.to_vec()),
        Layout::Nchw => Image::new(dims[2], dims[1], dims[0], permute(bytes, dims, [1, 2, 0])),
    }
}

/// Output dimension `i` is input dimension `from[i]`.
pub(super) fn permute<T: Copy>(x: &[T], dims: [usize; 3], from: [usize; 3]) -> Vec<T> {
    let strides = [dims[1] * dims[2], dims[2], 1];
    let mut out = Vec::with_capacity(x.len());
    for i in 0..dims[from[0]] {
        for j in 0..dims[from[1]] {
            for k in 0..dims[from[2]] {
                out.push(x[i * strides[from[0]] + j * strides[from[1]] + k * strides[from[2]]]);
            }
        }
    }
    out
}
