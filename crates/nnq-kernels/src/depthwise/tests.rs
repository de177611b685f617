//! Shapes that take each way through the kernels, compared by [`crate::conv::tests`] with the formula. Zero points,
//! dilations and random shapes are tested there for all convolutions.
use crate::conv::tests::{check_random, square};

#[test]
fn three_by_three_with_channels_around_parts_of_a_vector() {
    // Several pixels of few channels share a vector; pairs of rows share columns; rows are narrower than a vector of pixels.
    for c in [1, 2, 3, 4, 5, 8, 10, 11, 16, 17, 21, 22, 31, 32, 33, 48, 63, 64, 65, 96] {
        for (size, stride, pad) in [(1, 1, 1), (2, 1, 1), (5, 1, 1), (8, 1, 0), (7, 2, 1), (8, 2, 1), (6, 3, 1)] {
            let mut geom = square(size, c, c, 3, stride, pad, c);
            geom.batch = 2;
            check_random(geom, 77, c as u64);
        }
    }
}

#[test]
fn kernels_of_other_sizes_at_every_stride() {
    for (k_h, k_w) in [(1, 3), (2, 3), (4, 3), (3, 1), (5, 5), (7, 7), (5, 3), (3, 5)] {
        for stride in [1, 2, 3] {
            for c in [6, 32, 70] {
                let mut geom = square(9, c, c, 3, stride, 1, c);
                (geom.k_h, geom.k_w) = (k_h, k_w);
                check_random(geom, 200, stride as u64);
            }
        }
    }
}

#[test]
fn rows_that_lie_a_dilation_apart_are_shared_by_pairs_of_outputs() {
    for (stride_h, dil_h) in [(1, 2), (2, 2), (2, 1), (3, 3)] {
        for c in [12, 64] {
            let mut geom = square(9, c, c, 3, 1, 1, c);
            (geom.stride_h, geom.dil_h, geom.pad_top) = (stride_h, dil_h, dil_h);
            check_random(geom, 3, 1);
        }
    }
}
