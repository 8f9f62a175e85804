//! The session's namespace.

use labwright_document::yaml::Map;

use super::context::{Context, own};
use super::object::Object;

pub(super) fn namespace(context: Context<'_>) -> Object {
    let lab = context.lab();
    let labels = context
        .labels()
        .with("pod-security.kubernetes.io/enforce", context.options.pod_security.as_str())
        .with("pod-security.kubernetes.io/warn", "restricted")
        .with("pod-security.kubernetes.io/audit", "restricted");
    let annotations = Map::new()
        .with_some(own("title"), lab.title.as_ref())
        .with(own("version"), &lab.version)
        .with_some(own("expires-after"), lab.session.expires.map(|expires| format!("{}s", expires.as_secs())));
    let metadata =
        Map::new().with("name", &context.options.namespace).with("labels", labels).with("annotations", annotations);
    Object::new(
        "v1",
        "Namespace",
        metadata,
        "One session of the lab. Deleting this namespace ends the session and leaves nothing behind.",
    )
}
