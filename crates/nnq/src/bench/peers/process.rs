//! An engine in a process of its own that waits for its turn.
use serde::Deserialize;
use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

/// Longest wait for an answer: loading a model, quantizing it, a turn of runs.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a wait looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(100);

/// A line that an engine answers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Answer {
    pub version: Option<String>,
    pub isa: Option<String>,
    pub load_ms: Option<f64>,
    pub seconds: Vec<f64>,
    pub error: Option<String>,
}

/// A running engine. Dropping it ends the process.
pub(super) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    stderr: File,
}

impl Process {
    /// Starts a command.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let at = |e: std::io::Error| format!("{program}: {e}");
        let stderr = tempfile::tempfile().map_err(at)?;
        let copy = stderr.try_clone().map_err(at)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(copy);
        let mut child = command.spawn().map_err(at)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let (send, answers) = channel();
        // Ends with the stream, that is, with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, stdin, answers, stderr })
    }

    /// Waits for one line. `stop` ends the wait early.
    ///
    /// # Errors
    /// What the engine says went wrong, how it ended, or that it does not answer.
    pub fn answer(&mut self, stop: &mut dyn FnMut() -> bool) -> Result<Answer, String> {
        let start = Instant::now();
        loop {
            match self.answers.recv_timeout(GLANCE) {
                Ok(line) => return parse(&line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.epitaph()),
                Err(RecvTimeoutError::Timeout) if stop() => return Err("stopped".into()),
                Err(RecvTimeoutError::Timeout) if start.elapsed() > PATIENCE => {
                    return Err(format!("no answer within {} s", PATIENCE.as_secs()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Runs the model `runs` times: seconds of each.
    ///
    /// # Errors
    /// As [`Process::answer`].
    pub fn turn(&mut self, runs: usize, stop: &mut dyn FnMut() -> bool) -> Result<Vec<f64>, String> {
        let sent = self.stdin.as_mut().map(|s| writeln!(s, "{runs}").and_then(|()| s.flush()));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.epitaph());
        }
        let seconds = self.answer(stop)?.seconds;
        if seconds.len() == runs && seconds.iter().all(|s| s.is_finite() && *s > 0.0) {
            Ok(seconds)
        } else {
            Err(format!("{runs} runs were asked for, the answer holds {seconds:?}"))
        }
    }

    /// Seconds that the process has computed so far, on all its threads, as far as the system tells.
    pub fn busy(&self) -> Option<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        busy_in(&text)
    }

    /// How the process ended, with the last line that it wrote to standard error.
    fn epitaph(&mut self) -> String {
        // Its streams are closed: it has ended or is about to.
        let status = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
        let mut text = Vec::new();
        let read = self.stderr.rewind().and_then(|()| self.stderr.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().rev().find(|l| !l.trim().is_empty()).filter(|_| read.is_ok());
        last.map_or_else(|| format!("the process ended ({status})"), |l| format!("{} ({status})", l.trim()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An engine waits for its turn forever. One that has ended already is no fault.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Result<Answer, String> {
    let answer: Answer = serde_json::from_str(line).map_err(|e| format!("no answer but '{line}' ({e})"))?;
    match answer.error {
        Some(error) => Err(error),
        None => Ok(answer),
    }
}

/// User and system time of a line of `/proc/PID/stat`, in seconds. Linux counts hundredths there.
fn busy_in(stat: &str) -> Option<f64> {
    // The second field is a name in parentheses that may hold anything; times are the 14th and 15th.
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let [user, system] = [fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?];
    Some((user + system) as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> impl FnMut() -> bool {
        || false
    }

    #[test]
    fn answers_are_read_and_faults_named() {
        let ready = parse(r#"{"version": "1.2", "load_ms": 3.5, "more": 1}"#).unwrap();
        assert_eq!((ready.version.as_deref(), ready.load_ms), (Some("1.2"), Some(3.5)));
        assert_eq!(parse(r#"{"seconds": [0.5, 0.25]}"#).unwrap().seconds, [0.5, 0.25]);
        assert_eq!(parse(r#"{"error": "ImportError: no module"}"#).unwrap_err(), "ImportError: no module");
        assert!(parse("Segmentation fault").unwrap_err().contains("Segmentation fault"));
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "12 (a) b c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0 99";
        assert_eq!(busy_in(stat), Some(2.0));
        assert_eq!(busy_in("12 (a"), None);
        assert_eq!(busy_in("12 (a) S 1"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_process_takes_turns_until_it_ends() {
        let script =
            r#"echo '{"version": "7"}'; read n; echo '{"seconds": [0.5, 0.25]}'; read n; echo oh no >&2; exit 3"#;
        let mut p = Process::start(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(p.answer(&mut never()).unwrap().version.as_deref(), Some("7"));
        assert_eq!(p.turn(2, &mut never()).unwrap(), [0.5, 0.25]);
        let end = p.turn(1, &mut never()).unwrap_err();
        assert!(end.contains("oh no") && end.contains('3'), "{end}");
        let wrong = r#"read n; echo '{"seconds": [0.5]}'; read n"#;
        let mut p = Process::start(Command::new("sh").args(["-c", wrong])).unwrap();
        assert!(p.turn(2, &mut never()).unwrap_err().contains("2 runs"));
        let mut silent = Process::start(Command::new("sh").args(["-c", "read n"])).unwrap();
        assert_eq!(silent.answer(&mut || true).unwrap_err(), "stopped");
        assert!(Process::start(&mut Command::new("/no such program")).is_err());
    }
}
