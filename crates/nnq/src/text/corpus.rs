//! Files of texts as data to calibrate on.
use super::{Tokenizer, read_documents, read_pairs};
use crate::{
    data::{Dataset, Text},
    error::{At, Error, Result},
};
use std::path::Path;

/// The texts of a file: of pairs as [`read_pairs`] reads them (`.csv`, `.tsv`) both sentences, of texts (`.txt`) those that [`read_documents`] finds.
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
        for d in read_documents(path)? {
            texts.push(text(&d.text, d.line)?);
        }
    } else {
        return Err(Error::unsupported("no file of texts that is known")
            .cure("with --tokenizer, data is .csv or .tsv (lines of sentence,sentence,score) or .txt (a text in each line, or between lines of <|endoftext|>)")
            .at(path.display()));
    }
    Dataset::texts(path, texts)
}
