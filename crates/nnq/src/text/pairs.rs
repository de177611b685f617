//! Pairs of sentences with a score of how alike they are.
use super::read;
use crate::error::{At, Error, Result};
use std::path::Path;

/// Two sentences, and how alike people find them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The first and the second.
    pub sentences: [String; 2],
    /// More is more alike; only the order of scores counts.
    pub score: f64,
    /// The line of the file where it begins, from 1.
    pub line: u64,
}

/// Reads lines of `sentence,sentence,score`: comma-separated values with quotes (RFC 4180), or tab-separated ones where the name ends in `.tsv`. A first line whose
/// last field is no number is a heading.
///
/// # Errors
/// Names the file and the line.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    let bytes = read(path)?;
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    parse(&bytes, tabs).at(|| path.display())
}

fn parse(bytes: &[u8], tabs: bool) -> Result<Vec<Pair>> {
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true);
    if tabs {
        builder.delimiter(b'\t').quoting(false);
    }
    let mut pairs = Vec::new();
    for (i, line) in builder.from_reader(bytes).records().enumerate() {
        let place = || format!("line {}", i + 1);
        let line = line.map_err(|e| Error::malformed(e.to_string())).at(place)?;
        let begins = line.position().map_or(0, csv::Position::line);
        let fields: Vec<&str> = line.iter().collect();
        let &[first, second, score] = &fields[..] else {
            return Err(Error::malformed(format!("{} fields", fields.len()))
                .cure("a line is: sentence,sentence,score")
                .at(place()));
        };
        match score.trim().parse::<f64>() {
            Ok(score) if score.is_finite() => {
                pairs.push(Pair { sentences: [first.to_owned(), second.to_owned()], score, line: begins });
            }
            _ if i == 0 => {}
            _ => return Err(Error::malformed(format!("'{score}' is no score")).at(place())),
        }
    }
    if pairs.len() < 2 {
        return Err(Error::usage(format!("{} pairs of sentences", pairs.len())).cure("a correlation needs two or more"));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_quotes_tabs_and_headings() {
        let text = "a,b,score\nA cat.,\"A cat, \"\"Tom\"\".\",4.5\n\"x\ny\",z,0\n";
        let pairs = parse(text.as_bytes(), false).unwrap();
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[0].sentences, ["A cat.", "A cat, \"Tom\"."]);
        assert_eq!((pairs[0].score, pairs[1].score), (4.5, 0.0));
        assert_eq!((pairs[0].line, pairs[1].line), (2, 3));
        let pairs = parse(b"say \"so\", he said\tb\t1\nc\td\t2\n", true).unwrap();
        assert_eq!(pairs[0].sentences[0], "say \"so\", he said");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, cause) in [
            ("a,b,1\nc,d\n", "line 2: 2 fields"),
            ("a,b,1\nc,d,x\n", "line 2: 'x' is no score"),
            ("a,b,1\nc,d,nan\n", "line 2: 'nan' is no score"),
            ("a,b,1\n", "1 pairs"),
            ("", "0 pairs"),
        ] {
            let e = parse(text.as_bytes(), false).unwrap_err().to_string();
            assert!(e.contains(cause), "{cause}: {e}");
        }
        assert!(parse(b"a,\xff,1\nb,c,2\n", false).is_err());
    }
}
