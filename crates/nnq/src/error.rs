//! One error type: a public kind, and where, what and how to cure it.
use std::{fmt, path::Path};

/// What went wrong, for programs that react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file could not be read or written.
    Io,
    /// A file's content is malformed, truncated or lies about itself.
    Malformed,
    /// Well-formed, but nnq does not implement it.
    Unsupported,
    /// Shapes, types or attributes that do not fit each other.
    Shape,
    /// Values that cannot be worked with (NaN, infinite, overflowing).
    Value,
    /// An argument or recipe that makes no sense.
    Usage,
    /// The user asked to stop.
    Interrupted,
    /// A rule of the IR is broken: a defect of nnq.
    Internal,
}

/// An error that names its place, cause and cure.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    place: Vec<String>,
    cause: String,
    cure: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result type of nnq.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with its cause. Add the place and the cure with the methods below.
    pub fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, place: Vec::new(), cause: cause.into(), cure: None, source: None }))
    }
    /// [`ErrorKind::Malformed`].
    pub fn malformed(cause: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, cause)
    }
    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(cause: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, cause)
    }
    /// [`ErrorKind::Shape`].
    pub fn shape(cause: impl Into<String>) -> Self {
        Self::new(ErrorKind::Shape, cause)
    }
    /// [`ErrorKind::Value`].
    pub fn value(cause: impl Into<String>) -> Self {
        Self::new(ErrorKind::Value, cause)
    }
    /// [`ErrorKind::Usage`].
    pub fn usage(cause: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, cause)
    }
    /// [`ErrorKind::Internal`].
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, cause)
    }
    /// An [`ErrorKind::Io`] at `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        let mut e = Self::new(ErrorKind::Io, source.to_string());
        e.0.source = Some(Box::new(source));
        e.at(path.display())
    }
    /// Adds an outer place: a file, a node, a value. The last one added is printed first.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.place.push(place.to_string());
        self
    }
    /// Says what the user can do about it.
    #[must_use]
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.0.cure = Some(cure.into());
        self
    }
    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// The cause alone, without place and cure.
    pub fn cause(&self) -> &str {
        &self.0.cause
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.0.place.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.0.cause)?;
        if let Some(cure) = &self.0.cure {
            write!(f, " ({cure})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as _)
    }
}

/// Adds a place to the error of a result.
pub trait At<T> {
    /// See [`Error::at`]; `place` is only called on errors.
    fn at<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T>;
}

impl<T> At<T> for Result<T> {
    fn at<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.at(place()))
    }
}
