use super::*;
use crate::isa::{dispatch, tests::tested};

/// The lane order, the bytes of `interleave4` read in it, and `narrow4` of the channel numbers.
struct Order;

impl Op for Order {
    type Out = (usize, Vec<u8>, Vec<u8>);

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Self::Out {
        let (v, wide) = (s.v(), 4 * S::V::LANES);
        let rows = [0, 64, 128, 192].map(|row| {
            let bytes: Vec<u8> = (0..wide as u8).map(|c| row + c).collect();
            // SAFETY: a vector of bytes.
            unsafe { v.load_bytes(bytes.as_ptr()) }
        });
        let mut mixed = vec![0; 4 * wide];
        for (i, x) in v.interleave4(rows).into_iter().enumerate() {
            // SAFETY: `mixed` holds four vectors.
            unsafe { v.store_bytes(mixed.as_mut_ptr().add(i * wide), x) };
        }
        let channels: Vec<i32> = S::V::LANE_ORDER.iter().map(|&c| c.into()).collect();
        // SAFETY: `channels` holds four vectors.
        let order = [0, 1, 2, 3].map(|q| unsafe { v.load(channels.as_ptr().add(q * S::V::LANES)) });
        let mut narrow = vec![0; wide];
        // SAFETY: `narrow` holds a vector.
        unsafe { v.store_bytes(narrow.as_mut_ptr(), v.narrow4(order, CodeBytes::new(v, 0, 0, 255))) };
        (wide, mixed, narrow)
    }
}

#[test]
fn the_lane_order_is_what_interleave_makes_and_narrow_undoes() {
    for isa in tested() {
        let Some((wide, mixed, narrow)) = dispatch(isa, Order) else {
            continue;
        };
        let order: Vec<u8> = mixed.iter().copied().step_by(4).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let all: Vec<u8> = (0..wide as u8).collect();
        assert_eq!(sorted, all, "{isa}");
        for (four, channel) in mixed.chunks_exact(4).zip(order) {
            assert_eq!(four, [0, 64, 128, 192].map(|row| row + channel), "{isa}");
        }
        assert_eq!(narrow, all, "{isa}");
    }
}

/// One `dot` with the same four bytes in each lane.
struct Dot(i32, [u8; 4], [i8; 4]);

impl Op for Dot {
    type Out = Vec<i32>;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Vec<i32> {
        let v = s.v();
        let x = s.act(v.splat(i32::from_le_bytes(self.1)));
        let w = s.weight(v.splat(i32::from_le_bytes(self.2.map(|w| w as u8))));
        let mut out = vec![0; S::V::LANES];
        // SAFETY: `out` holds LANES values.
        unsafe { v.store(out.as_mut_ptr(), s.dot(v.splat(self.0), x, w)) };
        out
    }
}

#[test]
fn dot_wraps_and_never_saturates() {
    let ends_x = [0u8, 1, 127, 128, 255];
    let ends_w = [-128i8, -127, -1, 0, 1, 127];
    for isa in tested() {
        for start in [0, i32::MAX, i32::MIN] {
            for i in 0..ends_x.len() * ends_w.len() {
                let x = [0, 1, 2, 3].map(|k| ends_x[(i + k) % ends_x.len()]);
                let w = [0, 1, 2, 3].map(|k| ends_w[(i / 3 + k * (i % 2)) % ends_w.len()]);
                let products = x.iter().zip(w).map(|(&x, w)| i32::from(x) * i32::from(w));
                let want = products.fold(start, |a: i32, p| a.wrapping_add(p));
                if let Some(lanes) = dispatch(isa, Dot(start, x, w)) {
                    assert!(lanes.iter().all(|&lane| lane == want), "{isa} {x:?} {w:?}");
                }
            }
        }
    }
}
