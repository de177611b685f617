//! Real data sets, where they are installed.
use super::util::{image_of, real, sha};
use nnq::data::{ClassMap, Dataset, Loader, Options, Preprocess, Settings, read_classes};
use std::sync::Arc;

#[test]
fn mnist() {
    let Some(dir) = real("mnist") else { return };
    let set = Dataset::open(&dir, &Options::evaluation()).unwrap();
    assert_eq!((set.len(), set.label_count()), (10_000, 10));
    assert_eq!((0..10).map(|i| set.label(i).unwrap()).collect::<Vec<_>>(), [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
    assert_eq!(set.first(&Preprocess::mnist()).unwrap().shape(), [1, 28, 28]);
}

#[test]
fn keyword_features() {
    let Some(path) = real("audio/kws01_mfcc_int8.npz") else { return };
    let set = Dataset::open(&path, &Options::evaluation()).unwrap();
    assert_eq!((set.len(), set.label_count(), set.has_labels()), (1000, 12, true));
    let p = Preprocess { mean: vec![83.0], std: vec![1.0 / 0.584_702_9], ..Preprocess::raw() };
    let first = set.first(&p).unwrap();
    assert_eq!(first.shape(), [49, 10]);
    assert!(first.as_slice::<f32>().unwrap().iter().all(|x| (-124.0..=26.0).contains(x)));
}

#[test]
fn imagenette() {
    let Some(dir) = real("imagenette") else { return };
    let set = Arc::new(Dataset::open(dir.join("val"), &Options::evaluation()).unwrap());
    assert_eq!((set.len(), set.classes().len(), set.classes()[0].as_str()), (1966, 10, "n01440764"));
    let rows = read_classes(&dir.join("classes.tsv")).unwrap();
    let map = ClassMap::for_outputs(1000, set.label_count(), set.classes(), Some(&rows)).unwrap();
    assert_eq!(map.index_of_label, [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]);
    assert!(!ClassMap::for_outputs(10, set.label_count(), set.classes(), Some(&rows)).unwrap().restrict);
    // All files of the set decode in strict mode.
    let mut seen = 0;
    for batch in
        Loader::new(set.clone(), Preprocess::imagenet(), (0..set.len()).collect(), Settings::default()).unwrap()
    {
        let batch = batch.unwrap();
        assert_eq!(batch.input.shape()[1..], [3, 224, 224]);
        seen += batch.indices.len();
    }
    assert_eq!(seen, 1966);
    assert!(Dataset::open(&dir, &Options::evaluation()).unwrap_err().to_string().contains("name one of them"));
    println!("first image: {}", sha(&image_of(set.sample(0).unwrap()).pixels));
}

/// `unpack.py` of the data folder writes these.
#[test]
fn cifar10() {
    let Some(dir) = real("cifar-10-batches-bin") else { return };
    let set = Dataset::open(&dir, &Options::evaluation()).unwrap();
    assert_eq!((set.len(), set.label_count(), set.classes()[3].as_str()), (10_000, 10, "cat"));
    // Published: a thousand test images per class.
    let mut counts = [0; 10];
    (0..set.len()).for_each(|i| counts[set.label(i).unwrap()] += 1);
    assert_eq!(counts, [1000; 10]);
}
