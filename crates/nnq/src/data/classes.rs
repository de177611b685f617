//! From the labels of a data set to the outputs of a model.
use crate::error::{At, Error, Result};
use std::{collections::HashMap, path::Path};

/// Which output of the model stands for which label of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap {
    /// The model's output for each label.
    pub index_of_label: Vec<usize>,
    /// The model has more outputs than the data has classes, so that accuracy among the data's classes differs from
    /// accuracy among all outputs.
    pub restrict: bool,
}

/// A line of `classes.tsv`: folder name, index of the model's output, and what people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRow {
    /// The name of the class in the data set (the sub-folder).
    pub name: String,
    /// The model's output.
    pub index: usize,
    /// What people call it; empty when the file does not say.
    pub title: String,
}

/// Reads lines of `name TAB index [TAB title]`; empty lines and lines that begin with `#` are skipped.
///
/// # Errors
/// On other lines, and on a name or an index that occurs twice.
pub fn read_classes(path: &Path) -> Result<Vec<ClassRow>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    parse_classes(&text).at(|| path.display())
}

fn parse_classes(text: &str) -> Result<Vec<ClassRow>> {
    let mut rows: Vec<ClassRow> = Vec::new();
    let (mut names, mut indices) = (HashMap::new(), HashMap::new());
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let here = format!("line {}", i + 1);
        let mut parts = line.split('\t').map(str::trim);
        let (name, index) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let Ok(index) = index.parse::<usize>() else {
            return Err(Error::malformed(format!("{line:?} is not name TAB index [TAB title]")).at(here));
        };
        if let Some(before) = names.insert(name.to_owned(), i).or_else(|| indices.insert(index, i)) {
            let cause = format!("name {name:?} or index {index} occurs on line {} already", before + 1);
            return Err(Error::malformed(cause).at(here));
        }
        rows.push(ClassRow { name: name.to_owned(), index, title: parts.next().unwrap_or_default().to_owned() });
    }
    Ok(rows)
}

impl ClassMap {
    /// Chooses the map for a model of `outputs` outputs and data of `labels` classes called `classes` (perhaps without
    /// names):
    ///
    /// - as many outputs as classes: label `i` is output `i`, whatever `rows` says, since the indices there belong to
    ///   another model;
    /// - more outputs, with `rows`: the row of the class's name says the output;
    /// - more outputs, without names in the data: labels are outputs (`restrict` is false then, as it is unknown which
    ///   outputs are meant).
    ///
    /// # Errors
    /// When the model has fewer outputs than the data has classes, when a class has no row, when a row's index is no
    /// output, and when named classes are fewer than the outputs and there are no rows: nothing says then which
    /// outputs are meant.
    pub fn for_outputs(outputs: usize, labels: usize, classes: &[String], rows: Option<&[ClassRow]>) -> Result<Self> {
        if labels > outputs {
            return Err(Error::shape(format!("the data has {labels} classes, the model only {outputs} outputs"))
                .cure("evaluate a model that was trained for this data"));
        }
        if labels == outputs || classes.is_empty() {
            return Ok(Self { index_of_label: (0..labels).collect(), restrict: false });
        }
        let Some(rows) = rows else {
            return Err(Error::usage(format!(
                "the data has {labels} classes ({}, ...), the model {outputs} outputs: nothing says which are meant",
                classes[0]
            ))
            .cure("give a table with --classes FILE.tsv: class folder TAB index of the model's output per line"));
        };
        let index_of_label = classes
            .iter()
            .map(|class| {
                let row = rows.iter().find(|r| r.name == *class).ok_or_else(|| {
                    Error::usage(format!("class {class:?} of the data has no line in the table of classes"))
                        .cure("add one to the file that --classes names")
                })?;
                if row.index >= outputs {
                    return Err(Error::usage(format!(
                        "class {class:?} is output {}, but the model has {outputs}",
                        row.index
                    )));
                }
                Ok(row.index)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { index_of_label, restrict: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TSV: &str = "# folder\tindex\n\nn01\t7\ttench\nn02\t3\tdog\r\n";

    fn names(n: &[&str]) -> Vec<String> {
        n.iter().map(|&s| s.into()).collect()
    }

    #[test]
    fn table_is_parsed_and_its_faults_are_named() {
        let rows = parse_classes(TSV).unwrap();
        assert_eq!((rows[0].index, rows[0].title.as_str()), (7, "tench"));
        assert_eq!((rows[1].name.as_str(), rows[1].title.as_str()), ("n02", "dog"));
        for (bad, says) in [
            ("a\tx\n", "line 1"),
            ("a\n", "line 1"),
            ("a\t1\na\t2\n", "line 2"),
            ("a\t1\nb\t1\n", "line 2"),
            ("a\t-1", "line 1"),
        ] {
            let e = parse_classes(bad).unwrap_err().to_string();
            assert!(e.contains(says), "{bad:?}: {e}");
        }
    }

    #[test]
    fn the_number_of_outputs_chooses_the_map() {
        let (rows, classes) = (parse_classes(TSV).unwrap(), names(&["n01", "n02"]));
        let map =
            |outputs, classes: &[String], rows: Option<&[ClassRow]>| ClassMap::for_outputs(outputs, 2, classes, rows);
        assert_eq!(map(10, &classes, Some(&rows)).unwrap(), ClassMap { index_of_label: vec![7, 3], restrict: true });
        // As many outputs as classes: the order of the folders, even with a table for another model.
        assert_eq!(map(2, &classes, Some(&rows)).unwrap(), ClassMap { index_of_label: vec![0, 1], restrict: false });
        // Numbers as labels are outputs.
        assert_eq!(map(10, &[], None).unwrap(), ClassMap { index_of_label: vec![0, 1], restrict: false });
        for (outputs, classes, rows, says) in [
            (1, &classes, Some(rows.as_slice()), "only 1 outputs"),
            (10, &classes, None, "--classes"),
            (5, &classes, Some(&rows), "output 7"),
            (10, &names(&["n01", "n03"]), Some(&rows), "\"n03\""),
        ] {
            let e = map(outputs, classes, rows).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }
}
