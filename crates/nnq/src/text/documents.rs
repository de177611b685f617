//! Texts of a file.
use super::read;
use crate::error::{Error, Result};
use std::path::Path;

/// What stands between the texts of a file where it stands anywhere; otherwise each line is one.
const BETWEEN: &str = "<|endoftext|>";

/// Reads texts in UTF-8, without the white space around them: what lies between lines of `<|endoftext|>`, or where there are none each line. Empty ones are left out.
///
/// # Errors
/// Names the file that cannot be read, is no UTF-8 or holds no text.
pub fn read_documents(path: &Path) -> Result<Vec<String>> {
    let text = String::from_utf8(read(path)?).map_err(|e| {
        Error::malformed(format!("no UTF-8 at byte {}", e.utf8_error().valid_up_to())).at(path.display())
    })?;
    let all = split(&text);
    if all.is_empty() {
        return Err(Error::usage("no text")
            .at(path.display())
            .cure("give lines of text, or texts between lines of <|endoftext|>"));
    }
    Ok(all.into_iter().map(str::to_owned).collect())
}

fn split(text: &str) -> Vec<&str> {
    let parts: Vec<&str> = if text.contains(BETWEEN) { text.split(BETWEEN).collect() } else { text.lines().collect() };
    parts.into_iter().map(str::trim).filter(|t| !t.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_or_what_lies_between() {
        assert_eq!(split("a b\n\n c\n"), ["a b", "c"]);
        assert_eq!(split("a\nb\n<|endoftext|>\n\n<|endoftext|>c"), ["a\nb", "c"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.txt");
        for (bytes, cause) in [(&b"\n \n"[..], "no text"), (b"ab\xff", "byte 2")] {
            std::fs::write(&path, bytes).unwrap();
            let e = read_documents(&path).unwrap_err().to_string();
            assert!(e.contains(cause) && e.contains("x.txt"), "{e}");
        }
    }
}
