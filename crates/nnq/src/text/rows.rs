//! Lines of a table of texts: pairs of sentences with a score of how alike they are, or texts with the number of their class.
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

/// A text, or two that belong together, and the class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The text, or the first one.
    pub text: String,
    /// The second one.
    pub second: Option<String>,
    /// The number of its class, from 0: the network's output that should be the largest.
    pub label: usize,
    /// The line of the file where it begins, from 1.
    pub line: u64,
}

/// What a table of texts holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Rows {
    /// Lines of three fields, the last one a score.
    Pairs(Vec<Pair>),
    /// Lines of two fields, or of three under a heading that calls the last one a class.
    Labelled(Vec<Labelled>),
}

/// The largest number of a class.
const MAX_LABEL: usize = 1 << 20;

/// How the last field of a heading is called where lines of three fields end in a class, and no score.
const CLASS: [&str; 2] = ["label", "class"];

/// Reads lines of `sentence,sentence,score` or of `text,label`: comma-separated values with quotes (RFC 4180), or tab-separated ones where the name ends in
/// `.tsv`. A first line whose last field is no number is a heading; where its third field is `label` or `class`, lines are `text,text,label`.
///
/// # Errors
/// Names the file and the line.
pub fn read_rows(path: &Path) -> Result<Rows> {
    let bytes = read(path)?;
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    parse(&bytes, tabs).at(|| path.display())
}

/// As [`read_rows`], for lines of `sentence,sentence,score`.
///
/// # Errors
/// As there, and when the file holds texts with classes.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    match read_rows(path)? {
        Rows::Pairs(pairs) => Ok(pairs),
        Rows::Labelled(_) => Err(Error::usage("texts with classes, and no pairs")
            .cure("a line is: sentence,sentence,score")
            .at(path.display())),
    }
}

fn parse(bytes: &[u8], tabs: bool) -> Result<Rows> {
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true);
    if tabs {
        builder.delimiter(b'\t').quoting(false);
    }
    let (mut pairs, mut labelled) = (Vec::new(), Vec::new());
    let (mut width, mut classes) = (None, false);
    for (i, line) in builder.from_reader(bytes).records().enumerate() {
        let place = || format!("line {}", i + 1);
        let record = line.map_err(|e| Error::malformed(e.to_string())).at(place)?;
        let line = record.position().map_or(0, csv::Position::line);
        let fields: Vec<&str> = record.iter().collect();
        if *width.get_or_insert(fields.len()) != fields.len() || !matches!(fields.len(), 2 | 3) {
            return Err(Error::malformed(format!("{} fields", fields.len()))
                .cure("all lines are sentence,sentence,score, or text,label, or text,text,label under a heading that ends so")
                .at(place()));
        }
        let (&last, texts) = fields.split_last().ok_or_else(|| Error::internal("a line without fields"))?;
        if i == 0 {
            classes = texts.len() == 1 || CLASS.iter().any(|name| last.trim().eq_ignore_ascii_case(name));
            if last.trim().parse::<f64>().is_err() {
                continue;
            }
        }
        match (texts, classes) {
            (&[first, second], false) => {
                let score = last.trim().parse::<f64>().ok().filter(|score| score.is_finite());
                let score = score.ok_or_else(|| Error::malformed(format!("'{last}' is no score"))).at(place)?;
                pairs.push(Pair { sentences: [first.to_owned(), second.to_owned()], score, line });
            }
            (&[text, ref more @ ..], _) => {
                let label = last.trim().parse::<usize>().ok().filter(|label| *label <= MAX_LABEL);
                let label = label.ok_or_else(|| {
                    Error::malformed(format!("'{last}' is no class"))
                        .cure("classes are numbers from 0, in the order of the network's outputs")
                });
                let (label, second) = (label.at(place)?, more.first().map(|&text| text.to_owned()));
                labelled.push(Labelled { text: text.to_owned(), second, label, line });
            }
            _ => {}
        }
    }
    match classes {
        true if labelled.is_empty() => Err(Error::usage("the file holds no texts")),
        true => Ok(Rows::Labelled(labelled)),
        _ if pairs.len() < 2 => {
            Err(Error::usage(format!("{} pairs of sentences", pairs.len())).cure("a correlation needs two or more"))
        }
        _ => Ok(Rows::Pairs(pairs)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs_of(bytes: &[u8], tabs: bool) -> Vec<Pair> {
        match parse(bytes, tabs).unwrap() {
            Rows::Pairs(pairs) => pairs,
            Rows::Labelled(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn texts_with_classes() {
        let rows = parse(b"text\tlabel\na film , \"so\"\t1\n b \t 0\n", true).unwrap();
        let want = |text: &str, label, line| Labelled { text: text.into(), second: None, label, line };
        assert_eq!(rows, Rows::Labelled(vec![want("a film , \"so\"", 1, 2), want(" b ", 0, 3)]));
        for (text, cause) in [
            ("a,1\nb,-1\n", "line 2: '-1' is no class"),
            ("a,1\nb,0.5\n", "line 2: '0.5' is no class"),
            ("a,1\nb,4294967296\n", "line 2: '4294967296' is no class"),
            ("a,1\nb,c,1\n", "line 2: 3 fields"),
            ("text,label\n", "no texts"),
        ] {
            let e = parse(text.as_bytes(), false).unwrap_err().to_string();
            assert!(e.contains(cause), "{cause}: {e}");
        }
    }

    #[test]
    fn pairs_with_classes() {
        for heading in ["a,b,label", "sentence1,sentence2, Class "] {
            let rows = parse(format!("{heading}\nit rains,\"rain, again\",1\nc,d,0\n").as_bytes(), false).unwrap();
            let want = |a: &str, b: &str, label, line| Labelled { text: a.into(), second: Some(b.into()), label, line };
            assert_eq!(rows, Rows::Labelled(vec![want("it rains", "rain, again", 1, 2), want("c", "d", 0, 3)]));
            let e = parse(format!("{heading}\na,b,0.5\n").as_bytes(), false).unwrap_err().to_string();
            assert!(e.contains("line 2: '0.5' is no class"), "{e}");
        }
        // Numbers under another heading, or none, are scores.
        assert_eq!(pairs_of(b"a,b,score\nc,d,1\ne,f,0\n", false).len(), 2);
    }

    #[test]
    fn commas_quotes_tabs_and_headings() {
        let text = "a,b,score\nA cat.,\"A cat, \"\"Tom\"\".\",4.5\n\"x\ny\",z,0\n";
        let pairs = pairs_of(text.as_bytes(), false);
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[0].sentences, ["A cat.", "A cat, \"Tom\"."]);
        assert_eq!((pairs[0].score, pairs[1].score), (4.5, 0.0));
        assert_eq!((pairs[0].line, pairs[1].line), (2, 3));
        let pairs = pairs_of(b"say \"so\", he said\tb\t1\nc\td\t2\n", true);
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
