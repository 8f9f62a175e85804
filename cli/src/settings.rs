//! What the environment means: directories and times that commands use.

use std::path::{Path, PathBuf};

use crate::env::{self, Env};
use crate::error::{CommandError, Kind};

/// Resolved settings; the same for every command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where everything is that Labwright keeps: images, bases, layers, logs.
    pub home: PathBuf,
    /// The kernel package for machines that build, if the environment names one.
    pub appliance_kernel: Option<PathBuf>,
    /// The time of creation that images carry, in seconds since 1970.
    pub created: Option<u64>,
    /// Proxies to use while building: lower-case name and value.
    pub proxies: Vec<(String, String)>,
    /// The files in which registry credentials are looked for, in this order.
    pub auth_files: Vec<PathBuf>,
}

impl Settings {
    /// Gives the environment its meaning.
    pub fn resolve(env: &Env) -> Result<Self, CommandError> {
        let home = if let Some(home) = &env.labwright_home {
            home.clone()
        } else {
            let data = env.xdg_data_home.clone().or_else(|| Some(env.home.as_ref()?.join(".local/share")));
            data.map(|data| data.join("labwright")).ok_or_else(|| {
                CommandError::sentence(Kind::Host, "no place for images: HOME is not set")
                    .hint(format!("set {} to a directory", env::LABWRIGHT_HOME))
            })?
        };
        // Relative to here, and a later change of directory must not move it.
        let home = std::path::absolute(&home).map_err(|source| {
            CommandError::new(Kind::Usage, source).context(format!("could not use the directory `{}`", home.display()))
        })?;
        let created = env.source_date_epoch.as_ref().map(|text| {
            text.parse().map_err(|source: std::num::ParseIntError| {
                CommandError::new(Kind::Usage, source)
                    .context(format!("{} is `{text}`, which is not a number of seconds", env::SOURCE_DATE_EPOCH))
            })
        });
        Ok(Self {
            home,
            appliance_kernel: env.labwright_appliance_kernel.clone(),
            created: created.transpose()?,
            proxies: env.proxies.clone(),
            auth_files: auth_files(env),
        })
    }

    /// The kernel package for machines that build: the one that was named, else the environment's.
    pub fn kernel<'a>(&'a self, named: Option<&'a Path>) -> Option<&'a Path> {
        named.or(self.appliance_kernel.as_deref())
    }

    /// The OCI image layout that `build` writes and `run`, `push` and `inspect` read.
    pub fn store(&self) -> PathBuf {
        self.home.join("store")
    }

    /// The disks of images in the store, unpacked, by the digest of their layer: what `run` boots.
    pub fn disks(&self) -> PathBuf {
        self.home.join("disks")
    }

    /// What belongs to machines that run now.
    pub fn machines(&self) -> PathBuf {
        self.home.join("machines")
    }

    /// Kernels for the machines in which images are built.
    pub fn appliance(&self) -> PathBuf {
        self.home.join("appliance")
    }

    /// What was found out about the processor's virtualisation.
    pub fn kvm_probe(&self) -> PathBuf {
        self.home.join("kvm.json")
    }
}

/// The places where podman, skopeo and docker keep credentials, the most specific first.
///
/// Source: containers-auth.json(5).
fn auth_files(env: &Env) -> Vec<PathBuf> {
    if let Some(file) = &env.registry_auth_file {
        return vec![file.clone()];
    }
    let config = env.xdg_config_home.clone().or_else(|| env.home.as_ref().map(|home| home.join(".config")));
    let docker = env.docker_config.clone().or_else(|| env.home.as_ref().map(|home| home.join(".docker")));
    [
        env.xdg_runtime_dir.as_ref().map(|dir| dir.join("containers/auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_variable_moves_everything() {
        let env = Env { labwright_home: Some("/x".into()), home: Some("/root".into()), ..Env::default() };
        assert_eq!(Settings::resolve(&env).unwrap().store(), PathBuf::from("/x/store"));
    }

    #[test]
    fn without_it_the_xdg_directories_count() {
        let env = Env { home: Some("/home/a".into()), ..Env::default() };
        let settings = Settings::resolve(&env).unwrap();
        assert_eq!(settings.home, PathBuf::from("/home/a/.local/share/labwright"));
        assert_eq!(
            settings.auth_files,
            [PathBuf::from("/home/a/.config/containers/auth.json"), PathBuf::from("/home/a/.docker/config.json")]
        );
        let env = Env { xdg_data_home: Some("/data".into()), ..env };
        assert_eq!(Settings::resolve(&env).unwrap().home, PathBuf::from("/data/labwright"));
    }

    #[test]
    fn nothing_is_guessed() {
        assert_eq!(Settings::resolve(&Env::default()).unwrap_err().kind, Kind::Host);
        let env = Env { labwright_home: Some("/x".into()), source_date_epoch: Some("soon".into()), ..Env::default() };
        assert_eq!(Settings::resolve(&env).unwrap_err().kind, Kind::Usage);
    }
}
