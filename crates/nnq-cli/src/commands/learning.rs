//! What `nnq train` and `nnq reconstruct` share.
use super::quantize;
use crate::{
    args::{Learning, Reading},
    interrupt::Interrupt,
    print::{Progress, Side, Table, number},
};
use nnq::Result;
use nnq_train::{
    output::{Output, Written},
    place::Place,
};
use std::path::Path;

/// What is written, and by what means; `eval`: what it is judged by.
pub fn output(args: &Learning, eval: Option<&Path>, reading: &Reading, interrupt: &Interrupt) -> Result<Output> {
    let writing = &args.writing;
    Ok(Output {
        eval: eval.map(|path| super::labelled(path, reading)).transpose()?,
        format: writing.format.into(),
        pack: writing.pack.into(),
        file: writing.out.clone(),
        threads: writing.threads.threads,
        place: Place::from_name(&args.device)?,
        cancel: Some(interrupt.flag()),
    })
}

/// The bar of the stage that a run is in.
#[derive(Default)]
pub struct Bar(Option<(String, Progress)>);

impl Bar {
    /// The bar of a stage, a new one where the stage is new.
    pub fn of(&mut self, stage: &str) -> &mut Progress {
        let old = self.0.take().filter(|(name, _)| name == stage);
        &mut self.0.insert(old.unwrap_or_else(|| (stage.to_owned(), Progress::new(stage)))).1
    }
}

/// From where to where.
pub fn head(w: &Written) -> String {
    format!("{} -> {}\n\n", w.model, w.out)
}

/// Accuracy before and after, where it was measured, under these names.
pub fn accuracy(w: &Written, [before, after]: [&str; 2]) -> String {
    let Some(report) = &w.after else { return String::new() };
    let mut table =
        Table::new(&[("", Side::Left), (before, Side::Right), (after, Side::Right), ("change", Side::Left)]);
    let before = w.before.as_ref().map_or_else(String::new, |r| number::percent(r.top1));
    let change = w.difference.map_or_else(String::new, |[d, lo, hi]| quantize::change(d, [lo, hi]));
    table.row(["top 1", &before, &number::percent(report.top1), &change]);
    format!("{table}\n")
}

/// What a user should know.
pub fn notes(w: &Written) -> String {
    w.messages.iter().map(|m| format!("note: {m}\n")).collect()
}
