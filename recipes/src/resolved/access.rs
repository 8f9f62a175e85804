use std::collections::BTreeMap;
use std::fmt;

use labwright_core::{AccessKind, Arch, Digest};
use serde::Serialize;

use super::{LocalPath, Remote};

/// A way into the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// The name that labs use, and the path at the front door: a DNS label.
    pub name: String,
    /// What it is.
    pub spec: AccessSpec,
}

impl Access {
    /// The kind, without the particulars.
    pub const fn kind(&self) -> AccessKind {
        match self.spec {
            AccessSpec::Terminal { .. } => AccessKind::Terminal,
            AccessSpec::Desktop { .. } => AccessKind::Desktop,
            AccessSpec::Http { .. } => AccessKind::Http,
        }
    }

    /// The account that the learner works in, for terminals and desktops.
    pub fn user(&self) -> Option<&str> {
        match &self.spec {
            AccessSpec::Terminal { user, .. } | AccessSpec::Desktop { user, .. } => Some(user),
            AccessSpec::Http { .. } => None,
        }
    }
}

/// The particulars of a way into the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessSpec {
    /// A shell in the browser (ttyd).
    Terminal {
        /// A user of the recipe.
        user: String,
        /// Where ttyd comes from; `None` takes the distribution's.
        ttyd: Option<Ttyd>,
    },
    /// A desktop in the browser (a VNC server and noVNC).
    Desktop {
        /// A user of the recipe.
        user: String,
        /// The size of the screen.
        geometry: Geometry,
    },
    /// A web server of the machine's own.
    Http {
        /// Its port in the guest; never [`FRONT_DOOR_PORT`](super::FRONT_DOOR_PORT).
        port: u16,
    },
}

/// A ttyd binary that the recipe brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ttyd {
    /// A file beside the recipe, for the recipe's only architecture.
    File {
        /// The binary.
        path: LocalPath,
        /// The digest of its bytes.
        digest: Digest,
    },
    /// A binary elsewhere for each architecture of the recipe.
    Url(BTreeMap<Arch, Remote>),
}

/// The size of a screen in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Geometry {
    /// From left to right.
    pub width: u16,
    /// From top to bottom.
    pub height: u16,
}

impl Default for Geometry {
    /// 1280x800: fits beside the text on a laptop's screen.
    fn default() -> Self {
        Self { width: 1280, height: 800 }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}
