//! Resize, its first form in opset 10, and Upsample before it.
use super::{Attrs, In, Old, Row, opt, req, row, wrong};
use crate::{
    error::{Error, Result},
    ir::{
        Op,
        op::{AspectPolicy, CoordMode, NearestMode, ResizeAttrs, ResizeMode},
    },
};

const MODE: &[(&str, ResizeMode)] =
    &[("nearest", ResizeMode::Nearest), ("linear", ResizeMode::Linear), ("cubic", ResizeMode::Cubic)];

const COORD: &[(&str, CoordMode)] = &[
    ("half_pixel", CoordMode::HalfPixel),
    ("half_pixel_symmetric", CoordMode::HalfPixelSymmetric),
    ("pytorch_half_pixel", CoordMode::PytorchHalfPixel),
    ("align_corners", CoordMode::AlignCorners),
    ("asymmetric", CoordMode::Asymmetric),
    ("tf_crop_and_resize", CoordMode::TfCropAndResize),
];

const NEAREST: &[(&str, NearestMode)] = &[
    ("round_prefer_floor", NearestMode::RoundPreferFloor),
    ("round_prefer_ceil", NearestMode::RoundPreferCeil),
    ("floor", NearestMode::Floor),
    ("ceil", NearestMode::Ceil),
];

const ASPECT: &[(&str, AspectPolicy)] = &[
    ("stretch", AspectPolicy::Stretch),
    ("not_larger", AspectPolicy::NotLarger),
    ("not_smaller", AspectPolicy::NotSmaller),
];

fn resize(op: &mut Op, a: &mut Attrs) -> Result<()> {
    let Op::Resize(r) = op else { return wrong(op) };
    if a.opset < 11 {
        return first_form(r, a);
    }
    a.choice("mode", ResizeMode::Nearest, MODE, &mut r.mode)?;
    a.choice("coordinate_transformation_mode", CoordMode::HalfPixel, COORD, &mut r.coord)?;
    if a.is_reading() && r.coord == CoordMode::TfCropAndResize && a.inputs.get(1).copied().flatten().is_none() {
        return Err(Error::malformed("tf_crop_and_resize without the input 'roi'"));
    }
    if r.coord == CoordMode::HalfPixelSymmetric {
        a.needs(19, "half_pixel_symmetric");
    }
    a.choice("nearest_mode", NearestMode::RoundPreferFloor, NEAREST, &mut r.nearest)?;
    a.float("cubic_coeff_a", -0.75, &mut r.cubic_a)?;
    a.flag("exclude_outside", false, &mut r.exclude_outside)?;
    a.float("extrapolation_value", 0.0, &mut r.extrapolation)?;
    a.flag(("antialias", 18), false, &mut r.antialias)?;
    a.ints(("axes", 18), &mut r.axes)?;
    a.choice(("keep_aspect_ratio_policy", 18), AspectPolicy::Stretch, ASPECT, &mut r.aspect)?;
    if a.is_reading() {
        // Empty tensors stand for absent inputs; the region of interest matters in one mode only.
        for i in 1..a.inputs.len() {
            if a.constant(i).is_some_and(|t| t.is_empty()) {
                a.inputs[i] = None;
            }
        }
        let given = (2..4).filter(|&i| a.inputs.get(i).copied().flatten().is_some()).count();
        if given != 1 {
            return Err(Error::malformed("Resize needs exactly one of 'scales' and 'sizes'"));
        }
    }
    Ok(())
}

/// Before opset 11 coordinates are `x / scale`, and the nearest element is the one below when an axis grows and the one above
/// when it shrinks. The newer form holds one rule for all axes, so an operator that does both is refused.
fn first_form(r: &mut ResizeAttrs, a: &mut Attrs) -> Result<()> {
    let scales = a.constant(2).and_then(|t| t.as_slice::<f32>().ok());
    let nearest = match scales {
        Some(s) if s.iter().all(|&s| s >= 1.0) => Some(NearestMode::Floor),
        Some(s) if s.iter().all(|&s| s <= 1.0) => Some(NearestMode::Ceil),
        // Upsample only grows.
        None if a.opset < 10 => Some(NearestMode::Floor),
        _ => None,
    };
    if a.is_reading() {
        a.choice("mode", ResizeMode::Nearest, &MODE[..2], &mut r.mode)?;
        let nearest = match (r.mode, nearest) {
            (_, Some(n)) => n,
            (ResizeMode::Nearest, None) => {
                return Err(Error::unsupported(
                    "nearest resizing before opset 11 with scales that are computed, or that grow one axis and shrink another",
                )
                .cure("export the model at opset 11 or newer"));
            }
            (_, None) => NearestMode::Floor,
        };
        *r = ResizeAttrs { mode: r.mode, coord: CoordMode::Asymmetric, nearest, ..ResizeAttrs::default() };
        return Ok(());
    }
    let old = ResizeAttrs { mode: r.mode, coord: CoordMode::Asymmetric, nearest: r.nearest, ..ResizeAttrs::default() };
    let fits = *r == old
        && (r.mode == ResizeMode::Linear || r.mode == ResizeMode::Nearest && nearest == Some(r.nearest))
        && a.inputs.get(1).copied().flatten().is_none();
    if !fits {
        a.needs(11, "this form of Resize");
        return Ok(());
    }
    a.choice("mode", ResizeMode::Nearest, &MODE[..2], &mut r.mode)
}

const UPSAMPLE: &[In] =
    &[req("X"), opt("roi").since(11), opt("scales").was(9, Old::Floats).required_before(10), opt("sizes").since(11)];

const RESIZE: &[In] = &[
    req("X"),
    opt("roi").since(11).empty_before(13),
    opt("scales").required_before(11).empty_before(13),
    opt("sizes").since(11),
];

pub(super) const ROWS: &[Row] = &[
    row("Upsample", 7, UPSAMPLE, || Op::Resize(ResizeAttrs::default()), resize).until(9),
    row("Resize", 10, RESIZE, || Op::Resize(ResizeAttrs::default()), resize),
];
