//! The Secrets that a session brings.

use std::collections::BTreeMap;

use labwright_cloud_init::{Credential, InvalidCredential, SessionConfig, user_data};
use labwright_document::yaml::Map;

use super::context::{Context, cloud_init_secret, env_secret};
use super::interfaces::Interfaces;
use super::object::Object;
use crate::resolved::{Container, Machine, Vm};

/// A session cannot give a machine what the lab says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("machine `{machine}`: the front door does not take the password of `{user}`")]
pub struct InvalidSession {
    /// The machine.
    pub machine: String,
    /// The account.
    pub user: String,
    /// What is wrong with it.
    pub source: InvalidCredential,
}

pub(super) fn secrets(context: Context<'_>, value: &dyn Fn(&str) -> String) -> Result<Vec<Object>, InvalidSession> {
    let mut objects = Vec::new();
    for machine in &context.lab().machines {
        match &machine.kind {
            crate::resolved::MachineKind::Vm(vm) => objects.push(cloud_init(context, machine, vm, value)?),
            crate::resolved::MachineKind::Container(container) => {
                objects.extend(environment(context, machine, container, value));
            }
        }
    }
    Ok(objects)
}

/// What cloud-init reads at boot.
fn cloud_init(
    context: Context<'_>,
    machine: &Machine,
    vm: &Vm,
    value: &dyn Fn(&str) -> String,
) -> Result<Object, InvalidSession> {
    let credential = context
        .locked
        .credential(machine)
        .filter(|_| context.locked.front_door(machine).is_some())
        .map(|(user, password)| {
            Credential::new(user, password.render(value)).map_err(|source| InvalidSession {
                machine: machine.name.clone(),
                user: user.to_owned(),
                source,
            })
        })
        .transpose()?;
    let passwords: BTreeMap<String, String> =
        vm.users.iter().filter_map(|user| Some((user.name.clone(), user.password.as_ref()?.render(value)))).collect();
    let ssh_authorized_keys: BTreeMap<String, Vec<String>> = vm
        .users
        .iter()
        .filter(|user| !user.ssh_authorized_keys.is_empty())
        .map(|user| (user.name.clone(), user.ssh_authorized_keys.clone()))
        .collect();
    let session = SessionConfig {
        hostname: Some(machine.name.clone()),
        credential,
        passwords,
        ssh_authorized_keys,
        ..SessionConfig::default()
    };
    let data = Map::new()
        .with("userdata", user_data(&session))
        .with("networkdata", Interfaces::of(context, machine).network_config());
    Ok(secret(context, machine, cloud_init_secret(machine), "What cloud-init gives to this machine at boot.", data))
}

/// The variables in which secrets stand, whole.
fn environment(
    context: Context<'_>,
    machine: &Machine,
    container: &Container,
    value: &dyn Fn(&str) -> String,
) -> Option<Object> {
    let data: Map = container
        .env
        .iter()
        .filter(|(_, text)| text.as_plain().is_none())
        .map(|(name, text)| (name, text.render(value)))
        .collect();
    let why = "Variables of this machine in which secrets of the session stand.";
    (!data.is_empty()).then(|| secret(context, machine, env_secret(machine), why, data))
}

fn secret(context: Context<'_>, machine: &Machine, name: String, why: &'static str, data: Map) -> Object {
    let metadata = context.metadata(name).with("labels", context.machine_labels(machine));
    Object::new("v1", "Secret", metadata, why).with("type", "Opaque").with("stringData", data)
}
