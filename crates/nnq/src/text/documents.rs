//! Texts of a file.
use super::read;
use crate::error::{Error, Result};
use std::path::Path;

/// What stands between the texts of a file where it stands anywhere; otherwise each line is one.
const BETWEEN: &str = "<|endoftext|>";

/// A text and the line of the file where it begins, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Without the white space around it.
    pub text: String,
    /// See there.
    pub line: u64,
}

/// Reads texts in UTF-8: what lies between lines of `<|endoftext|>`, or where there are none each line. Empty ones are left out.
///
/// # Errors
/// Names the file that cannot be read, is no UTF-8 (with the line) or holds no text.
pub fn read_documents(path: &Path) -> Result<Vec<Document>> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
        Error::malformed("no UTF-8").at(format!("line {line}")).at(path.display())
    })?;
    let all = split(text);
    if all.is_empty() {
        return Err(Error::usage("the file holds no texts")
            .at(path.display())
            .cure("give lines of text, or texts between lines of <|endoftext|>"));
    }
    Ok(all)
}

fn split(text: &str) -> Vec<Document> {
    let between = if text.contains(BETWEEN) { BETWEEN } else { "\n" };
    let mut line = 1;
    let mut all = Vec::new();
    let lines = |text: &str| text.matches('\n').count() as u64;
    for part in text.split(between) {
        let before = &part[..part.len() - part.trim_start().len()];
        if !part.trim().is_empty() {
            all.push(Document { text: part.trim().to_owned(), line: line + lines(before) });
        }
        line += lines(part) + lines(between);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_or_what_lies_between() {
        let split = |text| split(text).into_iter().map(|d| (d.text, d.line)).collect::<Vec<_>>();
        let want = |all: &[(&str, u64)]| all.iter().map(|(t, l)| ((*t).to_owned(), *l)).collect::<Vec<_>>();
        assert_eq!(split("a b\n\n c\n"), want(&[("a b", 1), ("c", 3)]));
        assert_eq!(split("a\nb\n<|endoftext|>\n\n<|endoftext|>\nc"), want(&[("a\nb", 1), ("c", 6)]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.txt");
        for (bytes, cause) in [(&b"\n \n"[..], "no texts"), (b"ab\n\xff", "line 2")] {
            std::fs::write(&path, bytes).unwrap();
            let e = read_documents(&path).unwrap_err().to_string();
            assert!(e.contains(cause) && e.contains("x.txt"), "{e}");
        }
    }
}
