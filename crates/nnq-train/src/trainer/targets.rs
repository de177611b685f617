//! What a network should answer.
use crate::augment::Mixed;
use nnq::{Error, Result};

/// Rows of shares: 1 for the label, less what smoothing takes and spreads evenly; mixed as the samples are.
pub fn targets(labels: &[usize], mixed: &[Mixed], classes: usize, smooth: f32) -> Result<Vec<f32>> {
    let mut all = vec![smooth / classes.max(1) as f32; labels.len() * classes];
    let mut add = |row: usize, label: usize, share: f32| {
        let here = all.get_mut(row * classes..(row + 1) * classes).and_then(|row| row.get_mut(label));
        *here.ok_or_else(|| {
            Error::usage(format!("a sample of class {label}, and the network tells {classes} apart"))
                .cure("train with data of the network's classes")
        })? += (1.0 - smooth) * share;
        Ok(())
    };
    for (row, &label) in labels.iter().enumerate() {
        let other = mixed.get(row);
        add(row, label, 1.0 - other.map_or(0.0, |m| m.share))?;
        if let Some(m) = other {
            add(row, labels[m.with], m.share)?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_smoothed_and_mixed() {
        assert_eq!(targets(&[2, 0], &[], 3, 0.0).unwrap(), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        let mixed = [Mixed { with: 1, share: 0.25 }, Mixed { with: 0, share: 0.5 }];
        assert_eq!(targets(&[2, 0], &mixed, 3, 0.0).unwrap(), [0.25, 0.0, 0.75, 0.5, 0.0, 0.5]);
        let got = targets(&[2, 0], &mixed, 4, 0.2).unwrap();
        let want = [0.25, 0.05, 0.65, 0.05, 0.45, 0.05, 0.45, 0.05];
        assert!(got.iter().zip(want).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{got:?}");
        assert!(targets(&[3], &[], 3, 0.0).unwrap_err().to_string().contains("class 3"));
    }
}
