//! The files that a step puts into the image for its own time, in one place for those who make and those who remove them.

/// All of them, without the leading `/`.
pub(crate) const PATHS: &[&str] = &[
    "usr/sbin/policy-rc.d",
    "etc/resolv.conf",
    "usr/sbin/grub-probe",
    "usr/sbin/grub-install",
    PIN_SOURCE,
    PIN_PREFERENCES,
];

/// The temporary package source of a pinned package.
pub(crate) const PIN_SOURCE: &str = "etc/apt/sources.list.d/labwright-pin.sources";

/// The temporary pin.
pub(crate) const PIN_PREFERENCES: &str = "etc/apt/preferences.d/labwright-pin";
