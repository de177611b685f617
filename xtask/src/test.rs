//! `cargo xtask test`: everything that can fail, and one line at the end that says what was run.
use crate::{Result, cargo, python, root, show};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// Sums of libtest's "test result" lines.
#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    binaries: u64,
}

/// Makes the environment and runs all tests, then the examples in the documentation.
pub fn run() -> Result {
    let environment = python::environment()?;
    let data = std::env::var_os("NNQ_DATA").map_or_else(|| root().join("../shared/data"), Into::into);
    let data = data.is_dir().then_some(data);
    let command = |args: &[&str]| {
        let mut command = cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]).args(args);
        command.env("NNQ_PYTHON", &environment.python).env("NNQ_ONNX_NODE_TESTS", &environment.node_tests);
        if let Some(data) = &data {
            command.env("NNQ_DATA", data);
        }
        // Property tests explore anew on each developer's run; continuous integration judges a change by the same cases twice.
        if std::env::var_os("CI").is_some() && std::env::var_os("PROPTEST_RNG_SEED").is_none() {
            command.env("PROPTEST_RNG_SEED", "1");
        }
        command
    };
    let mut counts = Counts::default();
    let results = [counted(command(&["--all-targets"]), &mut counts), counted(command(&["--doc"]), &mut counts)];
    let Counts { passed, failed, ignored, binaries } = counts;
    let found = data.map_or("absent: tests on real networks skipped".into(), |d| d.display().to_string());
    println!("\ntests: {passed} passed, {failed} failed, {ignored} ignored in {binaries} runs; real data: {found}");
    results.into_iter().collect()
}

/// Runs a test command, showing and reading what it prints.
fn counted(mut command: Command, counts: &mut Counts) -> Result {
    let name = show(&command);
    eprintln!("+ {name}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("{name}: {e}"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n').map_while(std::result::Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            counts.add(&line);
        }
    }
    let status = child.wait().map_err(|e| format!("{name}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}

impl Counts {
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        self.binaries += 1;
        let words: Vec<&str> = rest.split([' ', ';']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(n) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += n,
                "failed" => self.failed += n,
                "ignored" => self.ignored += n,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn reads_result_lines() {
        let mut counts = Counts::default();
        counts.add("test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.1s");
        counts.add("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        counts.add("test a::b ... ok");
        assert_eq!((counts.passed, counts.failed, counts.ignored, counts.binaries), (15, 2, 1, 2));
    }
}
