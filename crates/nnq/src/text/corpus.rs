//! Files of texts as data to calibrate on.
use super::{Rows, Tokenizer, Tokens, read_documents, read_rows};
use crate::{
    data::{Dataset, Text},
    error::{At, Error, Result},
};
use std::path::Path;

/// The texts of a file: of lines as [`read_rows`] reads them (`.csv`, `.tsv`) texts, or pairs of them, with their classes, or both sentences of pairs, of texts (`.txt`) those that
/// [`read_documents`] finds.
///
/// # Errors
/// Names the file and the line.
pub fn open(path: &Path, tokenizer: &Tokenizer) -> Result<Dataset> {
    let named = |kind: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(kind));
    let of = |tokens: Result<Tokens>, line: u64| {
        let tokens = tokens.at(|| format!("line {line}")).at(|| path.display())?;
        Ok::<_, Error>(Text { tokens, line })
    };
    let text = |text: &str, line: u64| of(tokenizer.encode(text), line);
    let mut texts = Vec::new();
    let mut labels = None;
    if named("csv") || named("tsv") {
        match read_rows(path)? {
            Rows::Pairs(pairs) => {
                for pair in pairs {
                    for sentence in &pair.sentences {
                        texts.push(text(sentence, pair.line)?);
                    }
                }
            }
            Rows::Labelled(all) => {
                for one in &all {
                    texts.push(match &one.second {
                        Some(second) => of(tokenizer.encode_pair([&one.text, second]), one.line)?,
                        None => text(&one.text, one.line)?,
                    });
                }
                labels = Some(all.iter().map(|one| one.label).collect());
            }
        }
    } else if named("txt") {
        for d in read_documents(path)? {
            texts.push(text(&d.text, d.line)?);
        }
    } else {
        return Err(Error::unsupported("no file of texts that is known")
            .cure("with --tokenizer, data is .csv or .tsv (lines of text,label, of text,text,label under that heading, or of sentence,sentence,score) or .txt (a text in each line, or between lines of <|endoftext|>)")
            .at(path.display()));
    }
    Dataset::texts(path, texts, labels)
}
