//! The words that every part of Labwright shares: architectures, digests, sizes, references, places in
//! source files, diagnostics, events and the facts about an image.
//!
//! This crate never does input or output: it opens no file, starts no process, reads no clock and no
//! environment. It depends on no other crate of the workspace.
//!
//! Main types: [`Digest`], [`ByteSize`], [`ImageRef`], [`Diagnostic`], [`Event`] and [`ImageFacts`].
//!
//! ```
//! use labwright_core::{Arch, ByteSize};
//!
//! let size: ByteSize = "8Gi".parse().unwrap();
//! assert_eq!(size.bytes(), 8 << 30);
//! assert_eq!(Arch::Amd64.to_string(), "amd64");
//! ```

mod arch;
mod cancel;
mod causes;
mod diagnostic;
mod digest;
mod event;
mod facts;
mod image_ref;
mod package;
mod path;
mod secret;
mod size;
mod suggest;

pub use arch::{Arch, UnknownArch};
pub use cancel::{Cancel, Cancelled};
pub use causes::causes;
pub use diagnostic::{Diagnostic, Diagnostics, Severity, SourceFile, Span};
pub use digest::{Algorithm, Digest, Hasher, InvalidDigest};
pub use event::{Event, Quiet, Reporter};
pub use facts::{AccessFact, AccessKind, ImageFacts, ImageForm, PackageFact};
pub use image_ref::{ImageRef, InvalidImageRef, Registry};
pub use package::{InvalidLockedPackage, LockedPackage};
pub use path::{GuestPath, InvalidGuestPath};
pub use secret::{Finder, Hit, InvalidSecret, MAX_SECRET, MIN_SECRET, Mask, NamedSecret, Secret, secret_text};
pub use size::{ByteSize, InvalidByteSize};
pub use suggest::did_you_mean;
