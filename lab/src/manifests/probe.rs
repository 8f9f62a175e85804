//! When a machine is ready, as Kubernetes asks it.

use labwright_cloud_init::FrontDoor;
use labwright_core::AccessKind;
use labwright_document::yaml::Map;

use super::context::Context;
use crate::resolved::Machine;

/// Seconds between two questions.
const PERIOD: u16 = 5;

/// `readinessProbe`, for a machine that says by a port when it is ready.
///
/// The machine is not ready before the first good answer, whatever the number of failures; that number says how long a
/// ready machine may be silent, as when it is restarted: as long as its start may take.
pub(super) fn readiness(context: Context<'_>, machine: &Machine) -> Option<Map> {
    let (handler, question) = if let Some(port) = context.locked.front_door(machine) {
        ("httpGet", Map::new().with("path", FrontDoor::READY_PATH).with("port", port))
    } else {
        let doors = context.locked.doors(machine);
        let http = doors.iter().find(|door| door.kind == AccessKind::Http)?;
        ("tcpSocket", Map::new().with("port", http.port))
    };
    let failures = machine.ready.timeout.as_secs().div_ceil(PERIOD.into()).max(1);
    let probe = Map::new()
        .with(handler, question)
        .with("periodSeconds", PERIOD)
        .with("timeoutSeconds", PERIOD)
        .with("failureThreshold", i64::try_from(failures).unwrap_or(i32::MAX.into()).min(i32::MAX.into()));
    Some(probe)
}
