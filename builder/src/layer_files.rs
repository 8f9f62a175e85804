//! The files of a disk that is being built, kept open: while a later step runs, they may be moved into the cache.

use std::io;
use std::path::Path;

use fs_err::File;
use labwright_disk::chain_reader::ChainReader;
use labwright_disk::inspect::Format;

/// The base and the finished layers, bottom first.
#[derive(Debug)]
pub(crate) struct LayerFiles(Vec<(File, Format)>);

impl LayerFiles {
    /// Opens files that are there already.
    pub(crate) fn open<'a>(paths: impl IntoIterator<Item = (&'a Path, Format)>) -> io::Result<Self> {
        paths.into_iter().map(|(path, format)| Ok((File::open(path)?, format))).collect::<io::Result<_>>().map(Self)
    }

    /// Adds a layer that nobody writes to any more.
    pub(crate) fn push(&mut self, finished: &Path) -> io::Result<()> {
        self.0.push((File::open(finished)?, Format::Qcow2));
        Ok(())
    }

    /// The same open files once more.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let again =
            |(file, format): &(File, Format)| Ok((File::from_parts(file.file().try_clone()?, file.path()), *format));
        self.0.iter().map(again).collect::<io::Result<_>>().map(Self)
    }

    /// The disk that they make.
    pub(crate) fn reader(&self) -> io::Result<ChainReader> {
        ChainReader::open(self.try_clone()?.0)
    }
}
