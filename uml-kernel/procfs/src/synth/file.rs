//! Files of generated text.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::{FileOps, Io};
use uml_core::io::{Sink, Source, take_vec};
use uml_core::task::Task;

use super::{Regular, Text};

/// Most bytes one write hands to a file's handler; a longer write is cut to this (kernfs does the same).
pub const WRITE_MAX: usize = 4096;

/// Renders a subject.
pub type Show<S> = fn(&S, &Task, &mut Text) -> Result<()>;
/// Takes what was written.
pub type Store<S> = fn(&S, &Task, &[u8]) -> Result<()>;

/// A file whose text is made by functions over a subject.
pub struct TextBody<S> {
    subject: S,
    show: Option<Show<S>>,
    store: Option<Store<S>>,
    size: u64,
}

impl<S: Clone + Send + Sync + 'static> TextBody<S> {
    /// A file that can be read when there is a `show` and written when there is a `store`.
    pub fn new(subject: S, show: Option<Show<S>>, store: Option<Store<S>>) -> TextBody<S> {
        TextBody { subject, show, store, size: 0 }
    }

    /// With a `st_size`.
    pub fn sized(mut self, size: u64) -> TextBody<S> {
        self.size = size;
        self
    }
}

impl<S: Clone + Send + Sync + 'static> Regular for TextBody<S> {
    fn open(&self, _flags: u32) -> Result<Box<dyn FileOps>> {
        let (s, show) = (self.subject.clone(), self.show);
        let mut f = TextFile::new(move |task, out| match show {
            Some(show) => show(&s, task, out),
            None => Err(EIO),
        });
        if let Some(store) = self.store {
            let s = self.subject.clone();
            f = f.writable(move |task, data| store(&s, task, data));
        }
        Ok(Box::new(f))
    }

    fn size(&self) -> u64 {
        self.size
    }
}

type ShowFn = Arc<dyn Fn(&Task, &mut Text) -> Result<()> + Send + Sync>;
type StoreFn = Arc<dyn Fn(&Io<'_>, &[u8]) -> Result<()> + Send + Sync>;

/// A handler that does not mind who opened the file.
fn by_writer(store: impl Fn(&Task, &[u8]) -> Result<()> + Send + Sync + 'static) -> StoreFn {
    Arc::new(move |io: &Io<'_>, data: &[u8]| store(io.task, data))
}

/// A file whose text is made by closures.
#[derive(Clone)]
pub struct TextFn {
    show: Option<ShowFn>,
    store: Option<StoreFn>,
    size: u64,
}

impl TextFn {
    /// A file that `show` renders.
    pub fn new(show: impl Fn(&Task, &mut Text) -> Result<()> + Send + Sync + 'static) -> TextFn {
        TextFn { show: Some(Arc::new(show)), store: None, size: 0 }
    }

    /// A file that can only be written.
    pub fn command(store: impl Fn(&Task, &[u8]) -> Result<()> + Send + Sync + 'static) -> TextFn {
        TextFn { show: None, store: Some(by_writer(store)), size: 0 }
    }

    /// A file that can be written too.
    pub fn writable(
        mut self,
        store: impl Fn(&Task, &[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> TextFn {
        self.store = Some(by_writer(store));
        self
    }

    /// With a `st_size`.
    pub fn sized(mut self, size: u64) -> TextFn {
        self.size = size;
        self
    }
}

impl Regular for TextFn {
    fn open(&self, _flags: u32) -> Result<Box<dyn FileOps>> {
        let show = self.show.clone().unwrap_or_else(|| Arc::new(|_: &Task, _: &mut Text| Err(EIO)));
        Ok(Box::new(TextFile {
            show,
            store: self.store.clone(),
            text: Mutex::new(Rank::LEAF, None),
        }))
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// An open file of generated text. The text is made when it is read from the start and kept for the reads that
/// follow, so that a reader sees one consistent state however small its buffer is.
pub struct TextFile {
    show: ShowFn,
    store: Option<StoreFn>,
    text: Mutex<Option<Arc<[u8]>>>,
}

impl TextFile {
    /// A file that `show` renders.
    pub fn new(show: impl Fn(&Task, &mut Text) -> Result<()> + Send + Sync + 'static) -> TextFile {
        TextFile { show: Arc::new(show), store: None, text: Mutex::new(Rank::LEAF, None) }
    }

    /// A file that can be written too.
    pub fn writable(
        mut self,
        store: impl Fn(&Task, &[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> TextFile {
        self.store = Some(by_writer(store));
        self
    }

    fn text(&self, task: &Task, restart: bool) -> Result<Arc<[u8]>> {
        let old = self.text.lock().clone();
        if let Some(t) = old
            && !restart
        {
            return Ok(t);
        }
        let mut out = Text::new();
        (self.show)(task, &mut out)?;
        let made: Arc<[u8]> = out.into_bytes().into();
        *self.text.lock() = Some(made.clone());
        Ok(made)
    }
}

impl FileOps for TextFile {
    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let text = self.text(io.task, *off == 0)?;
        let start = usize::try_from(*off).unwrap_or(usize::MAX).min(text.len());
        let n = dst.remaining().min(text.len() - start);
        let got = if n == 0 { 0 } else { dst.put(&text[start..start + n])? };
        *off += got as u64;
        Ok(got)
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let store = self.store.as_ref().ok_or(EIO)?;
        if src.remaining() == 0 {
            return Ok(0);
        }
        let data = take_vec(src, WRITE_MAX)?;
        store(io, &data)?;
        *off += data.len() as u64;
        Ok(data.len())
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        // Generated files have no end to seek from (seq_file).
        match whence {
            libc::SEEK_SET | libc::SEEK_CUR => {
                uml_core::file::seek_in(Some(u64::MAX >> 1), cur, off, whence)
            }
            _ => Err(EINVAL),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Takes what was written at the start of a file, given the position to move; how much of it that was.
pub type StoreWhole = Box<dyn Fn(&Io<'_>, &mut u64, &[u8]) -> Result<usize> + Send + Sync>;

/// An open file that is written at its start only, each time as a whole.
pub struct WholeFile {
    text: TextFile,
    store: StoreWhole,
}

impl WholeFile {
    /// Shows `text`; `store` hears what is written.
    pub fn new(text: TextFile, store: StoreWhole) -> WholeFile {
        WholeFile { text, store }
    }
}

impl FileOps for WholeFile {
    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        self.text.read(io, off, dst)
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        if *off != 0 {
            return Err(EINVAL);
        }
        let data = take_vec(src, WRITE_MAX)?;
        (self.store)(io, off, &data)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        self.text.seek(cur, off, whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
