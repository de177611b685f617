//! Batches with what the teacher says of them.
use super::teacher::{Answers, Teacher};
use crate::batches::Batch;
use nnq::Result;
use std::{sync::mpsc::sync_channel, thread};

/// What a step learns from.
pub(super) struct Taught {
    pub batch: Batch,
    /// None without a teacher.
    pub answers: Option<Answers>,
}

/// Hands the batches to `step`, one by one, until it fails. With `ahead`, a thread of its own draws, changes and answers the next ones while a step is computed: a
/// teacher does not depend on what is learned from it, and a step leaves threads idle where its operations are small.
pub(super) fn each(
    batches: impl Iterator<Item = Result<Batch>> + Send,
    mut teacher: Option<&mut Teacher>,
    ahead: bool,
    mut step: impl FnMut(Result<Taught>) -> Result<()>,
) -> Result<()> {
    let taught = batches.map(move |batch| {
        let batch = batch?;
        let answers = teacher.as_mut().map(|t| t.answers(&batch.input)).transpose()?;
        Ok(Taught { batch, answers })
    });
    if !ahead {
        return taught.into_iter().try_for_each(step);
    }
    thread::scope(|scope| {
        let (send, receive) = sync_channel(1);
        scope.spawn(move || {
            for one in taught {
                if send.send(one).is_err() {
                    return;
                }
            }
        });
        receive.into_iter().try_for_each(&mut step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnq::{Error, ir::Tensor};

    fn batches(n: usize) -> impl Iterator<Item = Result<Batch>> + Send {
        (0..n).map(move |i| match i {
            7 => Err(Error::usage("sample 7")),
            _ => Ok(Batch { input: Tensor::of(&[1], vec![i as f32]), labels: vec![i], mixed: Vec::new() }),
        })
    }

    /// In their order, up to the first error, which comes from the step or the batch; what is ahead by then is let go.
    #[test]
    fn batches_come_in_order_until_something_fails() {
        for ahead in [false, true] {
            for (n, fails, want) in [(5, 99, 5), (5, 2, 2), (20, 99, 7)] {
                let mut seen = Vec::new();
                let done = each(batches(n), None, ahead, |taught| {
                    let label = taught?.batch.labels[0];
                    if label == fails {
                        return Err(Error::usage("step"));
                    }
                    seen.push(label);
                    Ok(())
                });
                assert_eq!(seen, (0..want).collect::<Vec<_>>(), "{ahead} {n} {fails}");
                assert_eq!(done.is_err(), want < n, "{ahead} {n} {fails}");
            }
        }
    }
}
