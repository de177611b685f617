//! Parts of images, at random, as large as the images were (Szegedy et al., 2015, "Going Deeper with Convolutions", section 6).
use super::{Draws, resample::resample};

/// The stream of these draws, apart from those of shifts.
const STREAM: u64 = 0x7a6f_6f6d_0000_0000;
/// The most that a part is wider than high, in proportion to the image, or the other way.
const LONGER: f64 = 4.0 / 3.0;

/// First row, rows, first column and columns of a part: its share of the area lies evenly between `least` and 1, the logarithm of its shape evenly, too.
fn part([height, width]: [usize; 2], least: f32, draws: &mut Draws) -> [usize; 4] {
    let share = f64::from(least) + (1.0 - f64::from(least)) * draws.open();
    let shape = ((2.0 * draws.open() - 1.0) * LONGER.ln()).exp();
    let long = |n: usize, by: f64| ((n as f64 * by) as usize).clamp(1, n.max(1));
    let (rows, columns) = (long(height, (share / shape).sqrt()), long(width, (share * shape).sqrt()));
    [draws.below(height - rows + 1), rows, draws.below(width - columns + 1), columns]
}

/// Puts a part of an image of planes `[height, width]` in its place.
pub fn zoom(image: &mut [f32], [height, width]: [usize; 2], least: f32, (seed, epoch, index): (u64, u64, u64)) {
    if height == 0 || width == 0 {
        return;
    }
    let [y, rows, x, columns] = part([height, width], least, &mut Draws::new(seed ^ STREAM, epoch, index));
    if (rows, columns) != (height, width) {
        let part = resample(image, [height, width], [y..y + rows, x..x + columns], [height, width]);
        image.copy_from_slice(&part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_inside_and_have_their_share() {
        let mut least = 1.0f64;
        for index in 0..500 {
            let [y, rows, x, columns] = part([40, 60], 0.4, &mut Draws::new(1, 2, index));
            assert!(rows > 0 && columns > 0 && y + rows <= 40 && x + columns <= 60);
            let share = (rows * columns) as f64 / 2400.0;
            // Rows and columns are whole numbers, and no longer than the image.
            assert!(share > 0.4 * 0.75 * 0.9, "{share}");
            least = least.min(share);
        }
        assert!(least < 0.5, "{least}");
    }

    /// A slope stays one, and is as much flatter as the part is smaller.
    #[test]
    fn a_part_takes_the_place_of_the_image() {
        let slope: Vec<f32> = (0..20 * 30).map(|i| (i % 30) as f32).collect();
        let mut seen = 0;
        for index in 0..20 {
            let mut image = slope.clone();
            zoom(&mut image, [20, 30], 0.3, (5, 0, index));
            let [_, _, x, columns] = part([20, 30], 0.3, &mut Draws::new(5 ^ STREAM, 0, index));
            for (i, got) in image.iter().enumerate() {
                // In the middle, where no edge is near.
                let at = i % 30;
                if (4..26).contains(&at) && columns < 30 {
                    let want = x as f32 + (at as f32 + 0.5) * columns as f32 / 30.0 - 0.5;
                    assert!((got - want).abs() < 1e-3, "{at}: {got} {want}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 1000, "{seen}");
    }
}
