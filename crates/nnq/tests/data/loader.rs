//! The parallel loader: order, errors, bounds, cancelling.
use super::util::golden;
use nnq::{
    ErrorKind,
    data::{Batch, Dataset, Image, Loader, Options, Preprocess, Settings, subset},
    ir::Tensor,
};
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Images of one pixel whose value is their index.
fn numbered(n: usize) -> Arc<Dataset> {
    let images = (0..n).map(|i| Image::new(1, 1, 1, vec![i as u8]).unwrap()).collect();
    Arc::new(Dataset::in_memory(images, Some((0..n).collect()), vec![]).unwrap())
}

fn load(set: &Arc<Dataset>, indices: Vec<usize>, batch: usize, threads: usize) -> Vec<Batch> {
    let settings = Settings { batch, threads, ..Settings::default() };
    Loader::new(set.clone(), Preprocess::raw(), indices, settings).unwrap().map(Result::unwrap).collect()
}

#[test]
fn order_does_not_depend_on_threads() {
    let set = numbered(101);
    let indices: Vec<usize> = (0..101).rev().chain([5, 5]).collect();
    for threads in [1, 2, 7] {
        for batch in [1, 2, 16, 50, 1000] {
            let batches = load(&set, indices.clone(), batch, threads);
            assert!(batches.iter().rev().skip(1).all(|b| b.indices.len() == batch));
            let seen: Vec<usize> = batches.iter().flat_map(|b| b.indices.clone()).collect();
            let pixels: Vec<f32> = batches.iter().flat_map(|b| b.input.as_slice::<f32>().unwrap().to_vec()).collect();
            assert_eq!(seen, indices, "{threads} {batch}");
            assert!(pixels.iter().zip(&indices).all(|(&p, &i)| p == i as f32));
            assert!(batches.iter().all(|b| b.labels.iter().zip(&b.indices).all(|(l, &i)| *l == Some(i))));
            assert!(batches.iter().all(|b| b.input.shape() == [b.indices.len(), 1, 1, 1]));
        }
    }
    assert!(load(&set, vec![], 4, 2).is_empty());
}

fn folder(dir: &Path, n: usize) -> Arc<Dataset> {
    for i in 0..n {
        fs::copy(golden("s420.jpg"), dir.join(format!("{i:03}.jpg"))).unwrap();
    }
    Arc::new(Dataset::open(dir, &Options::calibration()).unwrap())
}

#[test]
fn a_corrupt_file_is_named_or_counted() {
    let dir = tempfile::tempdir().unwrap();
    let set = folder(dir.path(), 30);
    let good = fs::read(golden("s420.jpg")).unwrap();
    fs::write(dir.path().join("017.jpg"), &good[..good.len() / 2]).unwrap();
    fs::write(dir.path().join("018.jpg"), b"").unwrap();
    for threads in [1, 3] {
        let settings = Settings { batch: 4, threads, ..Settings::default() };
        let loader = Loader::new(set.clone(), Preprocess::raw(), (0..30).collect(), settings.clone()).unwrap();
        let results: Vec<_> = loader.collect();
        // Four whole batches, then the error, then nothing.
        assert_eq!(results.len(), 5);
        let e = results[4].as_ref().unwrap_err();
        assert!(e.kind() == ErrorKind::Malformed && e.to_string().contains("017.jpg: the JPEG is truncated"), "{e}");
        let settings = Settings { skip_corrupt: true, ..settings };
        let mut loader = Loader::new(set.clone(), Preprocess::raw(), (0..30).collect(), settings).unwrap();
        let seen: Vec<_> = loader.by_ref().flat_map(|b| b.unwrap().indices).collect();
        assert_eq!(seen, (0..30).filter(|i| *i != 17 && *i != 18).collect::<Vec<_>>());
        let (count, messages) = loader.skipped();
        assert!(count == 2 && messages[1].contains("018.jpg"), "{messages:?}");
    }
    // Nothing but corrupt files is an error even so.
    let settings = Settings { skip_corrupt: true, ..Settings::default() };
    let mut loader = Loader::new(set, Preprocess::raw(), vec![17, 18], settings).unwrap();
    let e = loader.next().unwrap().unwrap_err().to_string();
    assert!(e.contains("all 2 samples"), "{e}");
}

#[test]
fn different_sizes_are_explained() {
    let images = vec![Image::new(2, 1, 1, vec![0; 2]).unwrap(), Image::new(1, 2, 1, vec![0; 2]).unwrap()];
    let set = Arc::new(Dataset::in_memory(images, None, vec![]).unwrap());
    let mut loader = Loader::new(set, Preprocess::raw(), vec![0, 1], Settings::default()).unwrap();
    let e = loader.next().unwrap().unwrap_err().to_string();
    assert!(e.contains("[1, 2, 1]") && e.contains("[1, 1, 2]") && e.contains("resize"), "{e}");
    // A wrong setting is no corrupt sample.
    let settings = Settings { skip_corrupt: true, ..Settings::default() };
    let crop = Preprocess { crop: Some([9, 9]), ..Preprocess::raw() };
    let mut loader = Loader::new(numbered(3), crop, vec![0, 1], settings).unwrap();
    assert_eq!(loader.next().unwrap().unwrap_err().kind(), ErrorKind::Shape);
    assert!(loader.next().is_none());
}

#[test]
fn nonsense_is_refused() {
    let new = |indices, batch, p| {
        Loader::new(numbered(3), p, indices, Settings { batch, ..Settings::default() })
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    assert!(new(vec![3], 1, Preprocess::raw()).contains("sample 3"));
    assert!(new(vec![0], 0, Preprocess::raw()).contains("batches of 0"));
    assert!(new(vec![0], 1, Preprocess { divide: 0.0, ..Preprocess::raw() }).contains("divide"));
}

#[test]
fn cancelling_and_dropping() {
    let flag = Arc::new(AtomicBool::new(false));
    let settings = Settings { batch: 2, threads: 2, cancel: Some(flag.clone()), ..Settings::default() };
    let mut loader = Loader::new(numbered(100), Preprocess::raw(), (0..100).collect(), settings).unwrap();
    assert!(loader.next().unwrap().is_ok());
    flag.store(true, Ordering::Relaxed);
    assert_eq!(loader.next().unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(loader.next().is_none());
    // Dropped in the middle, with workers waiting: must return.
    let settings = Settings { batch: 2, threads: 4, ..Settings::default() };
    let mut loader = Loader::new(numbered(200), Preprocess::raw(), (0..200).collect(), settings).unwrap();
    loader.next();
    drop(loader);
}

/// Counts how far workers run ahead by the files that vanish: a file deleted after the first batch must not have been read
/// when it lies beyond the window.
#[test]
fn workers_do_not_run_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let set = folder(dir.path(), 100);
    let settings = Settings { batch: 4, threads: 2, ..Settings::default() };
    let mut loader = Loader::new(set, Preprocess::raw(), (0..100).collect(), settings).unwrap();
    loader.next().unwrap().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    // 4 consumed, and the window of 4 + 2 * 4.
    (16..100).for_each(|i| fs::remove_file(dir.path().join(format!("{i:03}.jpg"))).unwrap());
    let read: usize = loader.map_while(Result::ok).map(|b| b.indices.len()).sum::<usize>() + 4;
    assert_eq!(read, 16);
}

#[test]
fn subset_and_loader_together() {
    let set = numbered(60);
    let chosen = subset(set.len(), 12, 1, nnq::data::Choice::Stratified, |i| set.label(i).map(|l| l % 3));
    let batches = load(&set, chosen.clone(), 5, 2);
    assert_eq!(batches.iter().map(|b| b.input.shape()[0]).collect::<Vec<_>>(), [5, 5, 2]);
    let all: Vec<f32> = batches.iter().flat_map(|b| b.input.to_f32s()).collect();
    assert_eq!(all, chosen.iter().map(|&i| i as f32).collect::<Vec<_>>());
    let _: &Tensor = &batches[0].input;
}
