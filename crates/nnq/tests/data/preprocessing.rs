//! Presets against Pillow and NumPy, the TOML form, and the check against a model's input.
use super::util::{all_ok, golden, picture, sha};
use nnq::{
    data::{Color, Dataset, Filter, Image, Layout, Preprocess, Resize, Sample},
    ir::{Dim, Shape, Tensor},
};

fn sample(image: Image) -> Sample {
    Sample::Image { image, file: true }
}

#[test]
fn presets_equal_pillow_and_numpy() {
    let text = std::fs::read_to_string(golden("resize.tsv")).unwrap();
    let (mut cases, mut failures) = (0, Vec::new());
    for line in text.lines().filter(|l| l.starts_with("prep")) {
        let f: Vec<_> = line.split('\t').collect();
        let image = picture(f[1].parse().unwrap(), f[2].parse().unwrap(), 3);
        let out = Preprocess::preset(f[3]).unwrap().apply(sample(image)).unwrap();
        if sha(out.data().as_bytes()) != f[4] {
            failures.push(format!("{line}: {:?}", out.shape()));
        }
        cases += 1;
    }
    assert_eq!(cases, 11);
    all_ok(failures);
}

#[test]
fn channels_and_layouts() {
    // Two columns, one row.
    let image = Image::new(2, 1, 3, vec![1, 2, 3, 4, 5, 6]).unwrap();
    let run = |color, layout| {
        let p = Preprocess { color, layout, mean: vec![1.0], ..Preprocess::raw() };
        let t = p.apply(sample(image.clone())).unwrap();
        (t.shape().to_vec(), t.as_slice::<f32>().unwrap().to_vec())
    };
    let (rgb, bgr, gray) = (Some(Color::Rgb), Some(Color::Bgr), Some(Color::Gray));
    assert_eq!(run(rgb, None), (vec![3, 1, 2], vec![0., 3., 1., 4., 2., 5.]));
    assert_eq!(run(bgr, Some(Layout::Nchw)), (vec![3, 1, 2], vec![2., 5., 1., 4., 0., 3.]));
    assert_eq!(run(rgb, Some(Layout::Nhwc)), (vec![1, 2, 3], vec![0., 1., 2., 3., 4., 5.]));
    assert_eq!(run(bgr, Some(Layout::Nhwc)), (vec![1, 2, 3], vec![2., 1., 0., 5., 4., 3.]));
    // (19595 + 2 * 38470 + 3 * 7471 + 32768) >> 16 = 2, and 5 for the other.
    assert_eq!(run(gray, None), (vec![1, 1, 2], vec![1., 4.]));
    // A gray file gives three channels unless gray is asked for.
    let file = Image::new(1, 1, 1, vec![9]).unwrap();
    let shape = |p: Preprocess| p.apply(sample(file.clone())).unwrap().shape().to_vec();
    assert_eq!((shape(Preprocess::raw()), shape(Preprocess::mnist())), (vec![3, 1, 1], vec![1, 1, 1]));
    // Mean and deviation follow the final order of the channels.
    let p = Preprocess { color: bgr, mean: vec![3., 2., 1.], std: vec![1., 2., 4.], ..Preprocess::raw() };
    assert_eq!(p.apply(sample(image.clone())).unwrap().as_slice::<f32>().unwrap(), [0., 3., 0., 1.5, 0., 0.75]);
}

#[test]
fn arrays_of_numbers() {
    let p = |divide: f32, mean: Vec<f32>, std: Vec<f32>| Preprocess { divide, mean, std, ..Preprocess::raw() };
    let features = Tensor::of(&[2, 2], vec![-128i8, 83, 84, 127]);
    let out = p(1.0, vec![83.0], vec![0.5]).apply(Sample::Array(features, None)).unwrap();
    assert_eq!((out.shape(), out.as_slice::<f32>().unwrap()), (&[2, 2][..], &[-422., 0., 2., 88.][..]));
    // Raw leaves the shape alone, also of what looks like an image.
    let bytes = Tensor::of(&[1, 2, 3], vec![1u8, 2, 3, 4, 5, 6]);
    assert_eq!(Preprocess::raw().apply(Sample::Array(bytes.clone(), None)).unwrap().shape(), [1, 2, 3]);
    // 8 bits with 3 channels are an image; with a declared layout, too.
    let chw = Preprocess { layout: Some(Layout::Nchw), ..Preprocess::raw() };
    let image = Tensor::of(&[2, 2, 3], (0..12u8).collect());
    let out = chw.apply(Sample::Array(image, None)).unwrap();
    assert_eq!(out.as_slice::<f32>().unwrap(), [0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.]);
    // Floats: the layout is moved, the mean per channel found; size and colour cannot be changed.
    let floats = Tensor::of(&[2, 1, 3], vec![0f32, 1., 2., 3., 4., 5.]);
    let per_channel = Preprocess { mean: vec![0., 1., 2.], ..chw.clone() };
    let out = per_channel.apply(Sample::Array(floats.clone(), None)).unwrap();
    assert_eq!((out.shape(), out.as_slice::<f32>().unwrap()), (&[3, 2, 1][..], &[0., 3., 0., 3., 0., 3.][..]));
    let e = Preprocess::imagenet().apply(Sample::Array(floats, None)).unwrap_err().to_string();
    assert!(e.contains("cannot resize") && e.contains("f32 [2, 1, 3]"), "{e}");
    let vague = Tensor::of(&[4, 4, 4], vec![0f32; 64]);
    let e = per_channel.apply(Sample::Array(vague.clone(), None)).unwrap_err().to_string();
    assert!(e.contains("layout"), "{e}");
    let four = Preprocess { mean: vec![1.; 4], ..chw };
    assert!(four.apply(Sample::Array(vague, Some(Layout::Nhwc))).is_ok());
}

#[test]
fn crops_are_centred_like_torchvisions() {
    // int(round((room) / 2.0)) of Python for rooms 0 to 8: halves go to the even number.
    for (room, left) in [0, 0, 1, 2, 2, 2, 3, 4, 4].into_iter().enumerate() {
        let width = 5 + room;
        let image = Image::new(width, 1, 1, (0..width as u8).collect()).unwrap();
        let p = Preprocess { crop: Some([1, 5]), color: Some(Color::Gray), ..Preprocess::raw() };
        assert_eq!(p.apply(sample(image)).unwrap().as_slice::<f32>().unwrap()[0], left as f32, "{room}");
    }
    let p = Preprocess { crop: Some([3, 5]), ..Preprocess::raw() };
    let e = p.apply(sample(picture(4, 9, 3))).unwrap_err().to_string();
    assert!(e.contains("3 x 5") && e.contains("9 x 4"), "{e}");
}

#[test]
fn cropped_images_are_not_resized() {
    let image = picture(224, 224, 3);
    let raw = Preprocess::raw().apply(sample(image.clone())).unwrap();
    let preset = Preprocess { divide: 1.0, mean: vec![], ..Preprocess::inception() };
    assert_eq!(preset.apply(sample(image)).unwrap().as_slice::<f32>().unwrap(), raw.as_slice::<f32>().unwrap());
}

#[test]
fn toml_goes_back_and_forth() {
    let all = Preprocess {
        color: Some(Color::Bgr),
        resize: Some(Resize { height: Some(20), width: Some(30), filter: Filter::Bicubic, ..Resize::default() }),
        crop: Some([10, 12]),
        divide: 127.5,
        mean: vec![1.0, 2.0, 3.0],
        std: vec![0.5],
        layout: Some(Layout::Nhwc),
    };
    let presets = nnq::data::PRESETS.map(|p| Preprocess::from_arg(p).unwrap());
    for p in presets.into_iter().chain([all]) {
        assert_eq!(Preprocess::from_toml(&p.to_toml().unwrap()).unwrap(), p);
    }
    let text = "color = \"rgb\"\ncrop = [224, 224]\ndivide = 255\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n\
                layout = \"nchw\"\n[resize]\nshorter = 256\nunless_cropped = true\n";
    assert_eq!(Preprocess::from_toml(text).unwrap(), Preprocess::imagenet());
    assert_eq!(Preprocess::from_toml("").unwrap(), Preprocess::raw());
}

#[test]
fn nonsense_in_toml_is_explained() {
    let cases = [
        ("resise = 1", "crop"),
        ("[resize]\nsize = 3", "shorter"),
        ("color = \"cmyk\"", "gray"),
        ("[resize]\nshorter = 0", "above 0"),
        ("[resize]\nshorter = 1\nwidth = 2", "either `shorter`"),
        ("[resize]\nheight = 1", "either `shorter`"),
        ("[resize]\nshorter = 8\nunless_cropped = true", "needs a `crop`"),
        ("crop = [0, 3]", "above 0"),
        ("crop = [3]", "crop"),
        ("divide = 0", "divide"),
        ("divide = nan", "divide"),
        ("std = [1.0, 0.0]", "std"),
        ("mean = [inf]", "mean"),
        ("color = \"gray\"\nmean = [1, 2, 3]", "3 values for 1 channels"),
        ("mean = \"x\"", "mean"),
    ];
    let failures = cases.iter().filter_map(|(text, says)| match Preprocess::from_toml(text) {
        Ok(p) => Some(format!("{text}: {p:?}")),
        Err(e) => (!e.to_string().contains(says)).then(|| format!("{text}: {e}")),
    });
    all_ok(failures.collect());
    let e = Preprocess::from_arg("imagnet").unwrap_err().to_string();
    assert!(e.contains("imagenet, cifar10, mnist, inception, raw"), "{e}");
}

#[test]
fn fits_names_both_shapes_and_the_cure() {
    let input = |dims: &[usize]| {
        let mut all = vec![Dim::sym("N")];
        all.extend(dims.iter().map(|&d| Dim::Fixed(d)));
        Shape(all)
    };
    let check =
        |found: &[usize], dims: &[usize]| Preprocess::raw().fits(found, &input(dims)).map_err(|e| e.to_string());
    check(&[3, 224, 224], &[3, 224, 224]).unwrap();
    Preprocess::raw()
        .fits(&[3, 32, 32], &Shape(vec![Dim::Fixed(1), Dim::Fixed(3), Dim::Unknown, Dim::sym("w")]))
        .unwrap();
    for (found, dims, says) in [
        (&[3, 500, 375][..], &[3, 224, 224][..], "crop = [224, 224]"),
        (&[3, 32, 32], &[32, 32, 3], "layout = \"nhwc\""),
        (&[32, 32, 3], &[3, 32, 32], "layout = \"nchw\""),
        (&[3, 28, 28], &[1, 28, 28], "color = \"gray\""),
        (&[1, 28, 28], &[3, 28, 28], "color = \"rgb\""),
        (&[490], &[49, 10], "another data set"),
    ] {
        let e = check(found, dims).unwrap_err();
        assert!(e.contains(says) && e.contains(&input(dims).to_string()), "{e}");
    }
    assert!(Preprocess::raw().fits(&[], &Shape(vec![])).is_err());
}

#[test]
fn data_sets_in_memory() {
    let images = vec![picture(8, 8, 3), picture(8, 8, 3)];
    let set = Dataset::in_memory(images.clone(), Some(vec![1, 0]), vec!["a".into(), "b".into()]).unwrap();
    assert_eq!((set.len(), set.label(0), set.label_count()), (2, Some(1), 2));
    assert_eq!(set.first(&Preprocess::cifar10()).unwrap().shape(), [3, 8, 8]);
    assert!(Dataset::in_memory(images, Some(vec![1]), vec![]).is_err());
    assert!(Dataset::in_memory(vec![], None, vec![]).is_err());
    assert!(set.sample(2).is_err());
}

#[test]
fn the_examples_of_the_documentation_are_read() {
    let text = include_str!("../../../../docs/data.md");
    let examples: Vec<_> = text
        .split("```toml\n")
        .skip(1)
        .map(|t| Preprocess::from_toml(t.split("```").next().unwrap()).unwrap())
        .collect();
    assert_eq!(examples.len(), 3);
    assert_eq!(examples[0], Preprocess::imagenet());
    assert_eq!((examples[1].color, examples[1].layout), (Some(Color::Bgr), Some(Layout::Nhwc)));
}

#[test]
fn data_sets_are_checked_against_models() {
    let set = Dataset::in_memory(vec![picture(8, 8, 3)], None, vec![]).unwrap();
    let input = |h| Shape(vec![Dim::sym("N"), Dim::Fixed(3), Dim::Fixed(h), Dim::Fixed(8)]);
    set.check(&Preprocess::raw(), &input(8)).unwrap();
    let e = set.check(&Preprocess::raw(), &input(9)).unwrap_err().to_string();
    assert!(e.contains("[N, 3, 9, 8]") && e.contains("[N, 3, 8, 8]"), "{e}");
}
