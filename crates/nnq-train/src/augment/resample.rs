//! Images, or parts of them, in another size. Smaller ones, for the first epochs, make a step cost as much less as they have fewer pixels.
use std::ops::Range;

/// Rows and columns of an image whose shorter side is to have `side` pixels.
pub fn sizes([height, width]: [usize; 2], side: usize) -> [usize; 2] {
    let shorter = height.min(width).max(1);
    [height, width].map(|n| ((n * side + shorter / 2) / shorter).max(1))
}

/// For each new position the first old one that it reads, and the shares of those from there on: a triangle as wide as two new pixels.
fn shares(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    let one = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - wide).max(0.0) as usize;
        let end = ((centre + wide).ceil() as usize).min(from);
        let weights: Vec<f64> =
            (first..end).map(|k| (1.0 - ((k as f64 + 0.5 - centre) / wide).abs()).max(0.0)).collect();
        let sum: f64 = weights.iter().sum();
        (first, weights.into_iter().map(|w| (w / sum) as f32).collect())
    };
    (0..to).map(one).collect()
}

/// A part, some rows and columns, of planes of `[height, width]` as planes of `[tall, wide]`: interpolated linearly, averaged over what a new pixel covers.
pub fn resample(
    planes: &[f32],
    [height, width]: [usize; 2],
    [part_rows, part_columns]: [Range<usize>; 2],
    [tall, wide]: [usize; 2],
) -> Vec<f32> {
    let (rows, columns) = (shares(part_rows.len(), tall), shares(part_columns.len(), wide));
    let mut out = Vec::with_capacity(planes.len() / (height * width).max(1) * tall * wide);
    let mut line = vec![0.0f32; part_columns.len()];
    for plane in planes.chunks_exact((height * width).max(1)) {
        for (first, weights) in &rows {
            line.fill(0.0);
            for (row, w) in plane[(part_rows.start + first) * width..].chunks_exact(width).zip(weights) {
                line.iter_mut().zip(&row[part_columns.clone()]).for_each(|(l, x)| *l += w * x);
            }
            let one = |(first, weights): &(usize, Vec<f32>)| {
                line[*first..].iter().zip(weights).map(|(x, w)| x * w).sum::<f32>()
            };
            out.extend(columns.iter().map(one));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_side_decides() {
        assert_eq!(sizes([224, 224], 128), [128, 128]);
        assert_eq!(sizes([30, 45], 20), [20, 30]);
        assert_eq!(sizes([45, 31], 20), [29, 20]);
    }

    /// By hand: to a half, the shares are 1 3 3 1 eighths, what falls outside left out.
    #[test]
    fn pixels_are_averaged() {
        let image: Vec<f32> = (0..16).map(|i| (i % 4) as f32).collect();
        let small = resample(&image, [4, 4], [0..4, 0..4], [2, 2]);
        let (left, right) = ((0.0 * 3.0 + 3.0 + 2.0) / 7.0, (1.0 + 3.0 * 2.0 + 3.0 * 3.0) / 7.0);
        let want = [left, right, left, right];
        assert!(small.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{small:?} {want:?}");
        // What is the same everywhere stays.
        let flat = resample(&[0.75; 2 * 9 * 7], [9, 7], [0..9, 0..7], [5, 4]);
        assert!(flat.len() == 40 && flat.iter().all(|x| (x - 0.75).abs() < 1e-6), "{flat:?}");
    }
}
