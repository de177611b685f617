//! `nnq bench --peers`.
use crate::{
    args::{Bench, Comparison as Choices},
    interrupt::Interrupt,
    print::{self, Side, Table, number},
};
use nnq::{
    Error, Result,
    bench::peers::{self, Cell, Comparison, Engine, Form, Job, Row},
    data::Preprocess,
};
use std::{fmt::Write, path::Path};

/// An engine that computed for more than this share of the others' turns disturbed them.
const RESTLESS: f64 = 0.02;

/// Runs the comparison.
pub fn run(args: &Bench, interrupt: &Interrupt) -> Result<()> {
    let c = &args.comparison;
    let preprocess = c.preprocess.as_deref().map_or_else(|| Ok(Preprocess::raw()), Preprocess::from_arg)?;
    let calibration =
        c.calibration.as_deref().map(|path| super::super::quantize::open(path, &preprocess)).transpose()?;
    let nnq = std::env::current_exe().map_err(|e| Error::io(Path::new("nnq"), e))?;
    let job = Job {
        model: args.model.clone(),
        float: c.float.clone(),
        calibration,
        batches: or(&c.batches, &[1, 32]),
        sizes: args.sizes.clone(),
        threads: or(&c.thread_counts, if cores() > 1 { &[1, 2] } else { &[1] }),
        isa: c.isa.clone(),
        python: c.python.clone().or_else(|| std::env::var_os("NNQ_PYTHON").map(Into::into)),
        nnq,
        seconds: c.seconds.unwrap_or(2.0),
        cancel: Some(interrupt.flag()),
    };
    let comparison = super::super::quantize::with_progress(|progress| peers::compare(&job, progress))?;
    print::report(args.output.json, &comparison, |r| if c.markdown { markdown(r, c) } else { text(r) })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn or(chosen: &[u32], default: &[u32]) -> Vec<usize> {
    let list = if chosen.is_empty() { default } else { chosen };
    list.iter().map(|&n| n as usize).collect()
}

/// Headers and rows: one row per engine and form, one column per cell.
fn pivot(c: &Comparison) -> (Vec<String>, Vec<Vec<String>>) {
    let mut header = vec!["engine".to_owned(), "network".to_owned()];
    header.extend(c.cells.iter().map(title));
    let entries = c.cells.first().map_or(&[][..], |c| &c.rows);
    let row = |i: usize, first: &Row| {
        let mut row = vec![first.engine.to_string(), first.form.to_string()];
        row.extend(c.cells.iter().map(|c| c.rows.get(i).map_or_else(String::new, figure)));
        row
    };
    let mut rows: Vec<_> = entries.iter().enumerate().map(|(i, r)| row(i, r)).collect();
    let speedup = |c: &Cell| {
        let float = c.rows.iter().find(|r| r.engine == Engine::Nnq && r.form == Form::Float);
        float.and_then(|r| r.figures.as_ref()?.ratio_int8)
    };
    if c.cells.iter().any(|c| speedup(c).is_some()) {
        let mut row = vec!["nnq".to_owned(), "float / int8".to_owned()];
        row.extend(c.cells.iter().map(|c| speedup(c).map_or_else(|| "-".into(), |x| format!("{x:.2}x"))));
        rows.push(row);
    }
    (header, rows)
}

/// `9.231 (1.25x)`: milliseconds, and how many times as long as nnq on the same kind of network.
fn figure(row: &Row) -> String {
    let Some(f) = &row.figures else { return "failed".into() };
    let ratio = f.ratio.filter(|_| row.engine != Engine::Nnq).map_or_else(String::new, |r| format!(" ({r:.2}x)"));
    let cut = if row.error.is_some() { ", then failed" } else { "" };
    format!("{}{ratio}{cut}", number::digits(f.median_ms))
}

/// Versions, loading times, faults and warnings, one line each.
fn remarks(c: &Comparison) -> Vec<String> {
    let all = || c.cells.iter().flat_map(|cell| cell.rows.iter().map(move |row| (cell, row)));
    let mut out = c.notes.clone();
    let mut versions: Vec<String> = Vec::new();
    for (engine, f) in all().filter_map(|(_, r)| Some((r.engine, r.figures.as_ref()?))) {
        let isa = f.isa.as_ref().map_or_else(String::new, |i| format!(" on {i}"));
        let version = format!("{engine} {}{isa}", f.version);
        if !versions.iter().any(|v| v.starts_with(&version)) {
            versions.push(version);
        }
    }
    out.push(format!("versions: {}", versions.join(", ")));
    let loads = c.cells.first().map_or(&[][..], |c| &c.rows).iter().filter(|r| r.form != Form::OwnInt8);
    let loads = loads.filter_map(|r| Some((r, r.figures.as_ref()?.load_ms)));
    let loads: Vec<_> = loads.map(|(r, ms)| format!("{} {} {ms:.0}", r.engine, r.form)).collect();
    out.push(format!("milliseconds from the file to a session: {}", loads.join("; ")));
    // The same fault in several cells is one line.
    let mut faults: Vec<(String, Vec<String>)> = Vec::new();
    for (cell, row) in all() {
        let restless = row.figures.as_ref().and_then(|f| f.restless).filter(|r| *r > RESTLESS);
        let restless = restless.map(|r| format!("computed during {:.0} % of the others' turns", 100.0 * r));
        for fault in row.error.clone().into_iter().chain(restless) {
            let fault = format!("{}, {}: {fault}", row.engine, row.form);
            match faults.iter_mut().find(|(f, _)| *f == fault) {
                Some((_, cells)) => cells.push(title(cell)),
                None => faults.push((fault, vec![title(cell)])),
            }
        }
    }
    out.extend(faults.into_iter().map(|(fault, cells)| match cells.len() == c.cells.len() {
        true => fault,
        false => format!("{fault} ({})", cells.join("; ")),
    }));
    out
}

/// `batch 1, 2 threads`
fn title(cell: &Cell) -> String {
    format!("batch {}, {}", cell.batch, number::plural(cell.threads as u64, "thread"))
}

fn machine(c: &Comparison) -> String {
    let m = &c.machine;
    format!("{}, {} ({})", m.cpu, number::plural(m.cores as u64, "core"), m.features.join(", "))
}

const LEGEND: &str =
    "median milliseconds of a run (times as long as nnq on the same kind of network: above 1, nnq is faster)";

fn text(c: &Comparison) -> String {
    let (header, rows) = pivot(c);
    let side = |i: usize| if i < 2 { Side::Left } else { Side::Right };
    let columns: Vec<(&str, Side)> = header.iter().enumerate().map(|(i, h)| (h.as_str(), side(i))).collect();
    let mut table = Table::new(&columns);
    for row in rows {
        table.row(row);
    }
    let mut out = format!("{} on {}\n{LEGEND}\n\n{table}\n", c.model, machine(c));
    for line in remarks(c) {
        let _ = writeln!(out, "{line}");
    }
    out
}

/// A section of a page of benchmarks. Paths are cut to names: the page is for other machines, too.
fn markdown(c: &Comparison, choices: &Choices) -> String {
    let name = |path: &str| Path::new(path).file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let model = name(&c.model);
    let mut command = format!("nnq bench {model} --peers");
    let path = |p: &Path| name(&p.to_string_lossy());
    let words = [
        ("--float", c.float.as_deref().map(name)),
        ("--calibration", choices.calibration.as_deref().map(path)),
        ("--preprocess", choices.preprocess.clone()),
        ("--isa", c.isa.clone()),
    ];
    for (flag, value) in words.into_iter().filter_map(|(f, v)| Some((f, v?))) {
        let _ = write!(command, " {flag} {value}");
    }
    let (header, rows) = pivot(c);
    let mut out = format!("## {model}\n    {command}\n\n{}\n\n", machine(c));
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    out += &line(&header);
    out += &format!("|{}\n", "---|".repeat(header.len()));
    rows.iter().for_each(|row| out += &line(row));
    out.push('\n');
    for remark in remarks(c) {
        let _ = writeln!(out, "- {remark}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnq::bench::peers::{Figures, Machine};

    fn comparison() -> Comparison {
        let figures = |ms: f64, ratio: f64, ratio_int8: f64, restless: f64| {
            Some(Figures {
                version: "1.0".into(),
                isa: None,
                load_ms: 1.0,
                runs: 9,
                median_ms: ms,
                min_ms: ms,
                ratio: Some(ratio),
                ratio_int8: Some(ratio_int8),
                restless: Some(restless),
            })
        };
        let row = |engine, form, figures: Option<Figures>| {
            let error = figures.is_none().then(|| "ImportError: nothing".to_owned());
            Row { engine, form, figures, error }
        };
        let rows = vec![
            row(Engine::Nnq, Form::Int8, figures(2.0, 1.0, 1.0, 0.0)),
            row(Engine::OnnxRuntime, Form::Int8, figures(3.0, 1.5, 1.5, 0.5)),
            row(Engine::OpenVino, Form::OwnInt8, None),
            row(Engine::Nnq, Form::Float, figures(8.0, 1.0, 4.0, 0.0)),
        ];
        let cell = |threads| Cell { batch: 1, threads, rows: rows.clone() };
        Comparison {
            model: "folder/net.int8.onnx".into(),
            float: Some("folder/net.onnx".into()),
            machine: Machine { cpu: "CPU".into(), cores: 1, features: vec!["avx2".into()] },
            isa: Some("avx2".into()),
            notes: vec!["limited".into()],
            cells: vec![cell(1), cell(2)],
        }
    }

    #[test]
    fn the_table_has_a_row_per_engine_and_names_what_failed() {
        let c = comparison();
        let (header, rows) = pivot(&c);
        assert_eq!(header[2..], ["batch 1, 1 thread", "batch 1, 2 threads"]);
        assert_eq!(rows[0], ["nnq", "int8, the same file", "2.000", "2.000"]);
        assert_eq!(rows[1][2], "3.000 (1.50x)");
        assert_eq!(rows[2], ["OpenVINO", "int8 by its own tool", "failed", "failed"]);
        assert_eq!(rows[4], ["nnq", "float / int8", "4.00x", "4.00x"]);
        let text = text(&c);
        for part in ["CPU, 1 core (avx2)", "limited", "ImportError: nothing\n", "computed during 50 %", "nnq 1.0,"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn markdown_names_files_without_folders() {
        let choices = Choices {
            float: None,
            calibration: Some("data/train".into()),
            preprocess: Some("imagenet".into()),
            batches: vec![],
            thread_counts: vec![],
            isa: None,
            seconds: None,
            python: None,
            markdown: false,
        };
        let page = markdown(&comparison(), &choices);
        let command = "    nnq bench net.int8.onnx --peers --float net.onnx --calibration train --preprocess imagenet --isa avx2\n";
        assert!(page.starts_with("## net.int8.onnx\n") && page.contains(command), "{page}");
        assert!(page.contains("\n|---|---|---|---|\n| nnq | int8, the same file | 2.000 | 2.000 |\n"), "{page}");
        assert!(!page.contains("folder/"), "{page}");
    }
}
