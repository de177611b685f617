//! A row of the table, and what is checked of every row.
use std::{
    collections::BTreeSet,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A command that runs longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// One input and what must come of it.
pub struct Row {
    /// Unique.
    pub name: &'static str,
    /// Puts files into an empty folder, where the command then runs.
    pub setup: fn(&Path),
    /// Arguments, separated by spaces.
    pub args: &'static str,
    /// Exit code.
    pub code: i32,
    /// What standard error must say; on success standard output.
    pub says: &'static [&'static str],
    /// Files that the command writes.
    pub writes: &'static [&'static str],
    /// Environment variables.
    pub env: &'static [(&'static str, &'static str)],
    /// A shell that prepares what a program cannot do to itself, and then runs `"$@"`.
    pub shell: Option<&'static str>,
    /// Further checks of the folder.
    pub check: fn(&Path) -> Result<(), String>,
}

/// A row that fails.
pub fn fails(
    name: &'static str,
    setup: fn(&Path),
    args: &'static str,
    code: i32,
    says: &'static [&'static str],
) -> Row {
    Row { name, setup, args, code, says, writes: &[], env: &[], shell: None, check: |_| Ok(()) }
}

/// A row that works.
pub fn works(name: &'static str, setup: fn(&Path), args: &'static str, writes: &'static [&'static str]) -> Row {
    Row { writes, ..fails(name, setup, args, 0, &[]) }
}

/// What came of a command.
pub struct Outcome {
    /// `None`: killed by a signal, or by the clock.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub seconds: f64,
}

/// Starts `nnq` in `folder`.
pub fn start(folder: &Path, args: &[&str], env: &[(&str, &str)], shell: Option<&str>) -> Child {
    let nnq = env!("CARGO_BIN_EXE_nnq");
    let mut command = match shell {
        None => Command::new(nnq),
        Some(script) => {
            let mut sh = Command::new("sh");
            sh.args(["-c", script, "sh", nnq]);
            sh
        }
    };
    // Temporary files of the process go where they are found.
    command.args(args).current_dir(folder).env("TMPDIR", folder).env_remove("NNQ_ISA").envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nnq starts")
}

/// Waits, and kills what hangs. The streams are read in the end: what is written there fits the buffer of a pipe.
pub fn finish(mut child: Child) -> Outcome {
    let clock = Instant::now();
    let code = loop {
        match child.try_wait().expect("nnq can be waited for") {
            Some(status) => break status.code(),
            None if clock.elapsed() > PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let (stdout, stderr) = (text(child.stdout.take()), text(child.stderr.take()));
    Outcome { code, stdout, stderr, seconds: clock.elapsed().as_secs_f64() }
}

fn text(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).expect("a pipe can be read");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every file and folder below a folder.
pub fn tree(folder: &Path) -> BTreeSet<String> {
    fn walk(base: &Path, folder: &Path, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            into.insert(path.strip_prefix(base).unwrap_or(&path).display().to_string());
            if path.is_dir() {
                walk(base, &path, into);
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(folder, folder, &mut all);
    all
}

/// What must hold for every outcome, whatever was asked.
pub fn manners(o: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    if o.stderr.contains("panicked") || o.stderr.contains("defect") || o.stderr.contains("internal") {
        wrong.push("it panics, or calls the user's mistake its own".into());
    }
    match o.code {
        None => wrong.push(format!("killed after {:.0} s", o.seconds)),
        Some(0) => {}
        Some(_) => {
            if !o.stderr.starts_with("error: ") {
                wrong.push("standard error does not begin with 'error: '".into());
            }
            if !o.stdout.is_empty() {
                wrong.push("it fails, but standard output is not empty".into());
            }
        }
    }
    wrong
}

/// Runs a row; the error says everything that is wrong with it.
pub fn judge(row: &Row) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    (row.setup)(folder.path());
    let before = tree(folder.path());
    let args: Vec<&str> = row.args.split_whitespace().collect();
    let o = finish(start(folder.path(), &args, row.env, row.shell));
    let mut wrong = manners(&o);
    if o.code != Some(row.code) {
        wrong.push(format!("exit code {:?}, expected {}", o.code, row.code));
    }
    let text = if row.code == 0 { &o.stdout } else { &o.stderr };
    wrong.extend(row.says.iter().filter(|s| !text.contains(**s)).map(|s| format!("it does not say {s:?}")));
    let after = tree(folder.path());
    let expected: BTreeSet<String> = before.iter().cloned().chain(row.writes.iter().map(|&s| s.to_owned())).collect();
    let odd: Vec<_> = after.symmetric_difference(&expected).collect();
    if !odd.is_empty() {
        wrong.push(format!("files that should not be there, or should: {odd:?}"));
    }
    wrong.extend((row.check)(folder.path()).err());
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}: nnq {}\n  - {}\n  stderr: {}  stdout: {}",
        row.name,
        row.args,
        wrong.join("\n  - "),
        o.stderr,
        o.stdout
    ))
}
