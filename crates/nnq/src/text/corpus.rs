//! Files of texts as data to calibrate on.
use super::{Tokenizer, read, read_pairs};
use crate::{
    data::{Dataset, Text},
    error::{At, Error, Result},
};
use std::path::Path;

/// The texts of a file: of pairs as [`read_pairs`] reads them (`.csv`, `.tsv`) both sentences, of any other (`.txt`) each line that is not empty.
///
/// # Errors
/// Names the file and the line.
pub fn open(path: &Path, tokenizer: &Tokenizer) -> Result<Dataset> {
    let named = |kind: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(kind));
    let text = |text: &str, line: u64| {
        let tokens = tokenizer.encode(text).at(|| format!("line {line}")).at(|| path.display())?;
        Ok::<_, Error>(Text { tokens, line })
    };
    let mut texts = Vec::new();
    if named("csv") || named("tsv") {
        for pair in read_pairs(path)? {
            for sentence in &pair.sentences {
                texts.push(text(sentence, pair.line)?);
            }
        }
    } else if named("txt") {
        let bytes = read(path)?;
        let all = std::str::from_utf8(&bytes).map_err(|e| {
            let line = bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
            Error::malformed("no UTF-8").at(format!("line {line}")).at(path.display())
        })?;
        for (line, one) in (1..).zip(all.lines()).filter(|(_, one)| !one.trim().is_empty()) {
            texts.push(text(one, line)?);
        }
    } else {
        return Err(Error::unsupported("no file of texts that is known")
            .cure("with --tokenizer, data is .csv or .tsv (lines of sentence,sentence,score) or .txt (a text in each line)")
            .at(path.display()));
    }
    Dataset::texts(path, texts)
}
