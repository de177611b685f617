//! Real numbers.
use super::{
    CHANNELS,
    after::{After, Left},
};
use crate::{
    conv::{
        block::Job,
        finish::{ToReal, store_reals},
    },
    simd::{Simd, Vector},
};

/// `f32(acc) * scale`, plus the bias if there is one.
#[derive(Clone, Copy)]
pub(super) struct Reals;

impl After for Reals {
    type Same<S: Simd> = ToReal<S>;

    #[inline(always)]
    fn same<S: Simd>(self, s: S, job: &Job, left: &Left) -> ToReal<S> {
        ToReal::new(s, job.ready, left.part.column(job.panels))
    }

    #[inline(always)]
    unsafe fn some<S: Simd>(self, s: S, _: &Job, same: &ToReal<S>, left: &mut Left) {
        let (v, lanes) = (s.v(), S::V::LANES);
        let mut nowhere = [0f32; CHANNELS];
        for _ in 0..left.together() {
            let to = left.next(nowhere.as_mut_ptr().cast()).cast();
            // SAFETY: the caller's.
            unsafe {
                let sums = [v.load(left.sums), v.load(left.sums.add(lanes))];
                store_reals(s, to, sums, *same, left.channels);
            }
            left.sums = left.sums.wrapping_add(CHANNELS);
        }
    }
}
