//! The whole text of manifests.

use labwright_lab::manifests::{
    Dns, Manifests, Options, PodSecurity, PullPolicy, Router, Routes, ServiceKind, Tls, addresses, render,
    session_secrets, to_yaml,
};
use labwright_lab::resolved::KubevirtVersion;

use crate::labs::{everything, locked};

/// All files as one text.
fn text(manifests: &Manifests) -> String {
    let mut text: Vec<String> =
        manifests.files.iter().map(|file| format!("=== {}\n{}", file.name, file.yaml())).collect();
    text.push(format!("=== warnings\n{}", manifests.warnings.join("\n")));
    text.concat()
}

/// Only files whose names begin so.
fn part(manifests: &Manifests, prefixes: &[&str]) -> String {
    let mut manifests = manifests.clone();
    manifests.files.retain(|file| prefixes.iter().any(|prefix| file.name.starts_with(prefix)));
    text(&manifests)
}

fn options(version: KubevirtVersion, router: Router) -> Options {
    let host = "alice.labs.example.org".to_owned();
    Options {
        routes: Some(Routes { host, namespace: "envoy-gateway-system".to_owned(), router }),
        pull_secret: Some("registry".to_owned()),
        ..Options::new(version, "lab-alice")
    }
}

pub(crate) fn gateway() -> Options {
    let router = Router::Gateway {
        name: "labs".to_owned(),
        namespace: "gateways".to_owned(),
        section: Some("https".to_owned()),
    };
    options(KubevirtVersion::V1_9, router)
}

pub(crate) fn ingress() -> Options {
    let router = Router::Ingress { class: Some("nginx".to_owned()), tls: Tls::Secret("labs-tls".to_owned()) };
    Options {
        service: ServiceKind::NodePort { clients: vec!["192.0.2.0/24".parse().unwrap()] },
        dns: Dns::NodeLocal(Dns::NODE_LOCAL),
        ..options(KubevirtVersion::V1_5, router)
    }
}

pub(crate) fn traefik() -> Options {
    let router = Router::Traefik { entry_point: "web".to_owned(), tls: Tls::Off };
    Options {
        service: ServiceKind::LoadBalancer { clients: vec!["2001:db8::/32".parse().unwrap()] },
        dns: Dns::OpenShift,
        pod_security: PodSecurity::Restricted,
        pull_policy: PullPolicy::Always,
        ..options(KubevirtVersion::V1_7, router)
    }
}

#[test]
fn everything_on_kubevirt_1_9_behind_a_gateway() {
    insta::assert_snapshot!(text(&render(&everything(), &gateway())));
}

#[test]
fn everything_on_kubevirt_1_5_behind_an_ingress() {
    insta::assert_snapshot!(text(&render(&everything(), &ingress())));
}

/// What differs from the others.
#[test]
fn restricted_behind_traefik_and_a_load_balancer() {
    let manifests = render(&everything(), &traefik());
    insta::assert_snapshot!(part(&manifests, &["00", "30", "40", "50-target", "60"]));
}

/// One machine, no secret, nothing that another machine could reach.
#[test]
fn the_smallest_lab() {
    let lab = locked(
        "apiVersion: labwright/v1alpha1\nkind: Lab\nmetadata: {name: small, version: 1.0.0}\n\
         machines: [{name: only, image: registry.example.org/only:1}]\n",
    );
    let options = Options::new(KubevirtVersion::V1_8, "lab-small");
    insta::assert_snapshot!(text(&render(&lab, &options)));
}

/// For envsubst and Flux; and for Helm, whose expressions stand in quotes too.
#[test]
fn secrets_with_placeholders() {
    let flux = session_secrets(&everything(), &Options::new(KubevirtVersion::V1_9, "${namespace}"), &|name| {
        format!("${{{name}}}")
    });
    insta::assert_snapshot!(to_yaml(&flux.unwrap()));
    let helm = Options::new(KubevirtVersion::V1_9, "{{ .Release.Namespace }}");
    let helm = to_yaml(&session_secrets(&everything(), &helm, &|name| format!("{{{{ .Values.{name} }}}}")).unwrap());
    for line in [
        "  namespace: \"{{ .Release.Namespace }}\"",
        "      - \"content\": \"student:{{ .Values.student_password }}\\n\"",
        "  FLAG: \"{{ .Values.flag }}\"",
        "  URL: \"http://student:{{ .Values.student_password }}@attacker:8080/\"",
    ] {
        assert!(helm.lines().any(|found| found == line), "{line}\n{helm}");
    }
}

#[test]
fn each_port_has_a_host_name_of_its_own() {
    let found: Vec<String> = addresses(&everything(), &gateway())
        .into_iter()
        .map(|address| format!("{} {} {} {}", address.machine, address.port, address.host, address.guarded))
        .collect();
    assert_eq!(
        found,
        [
            "attacker 8080 attacker-alice.labs.example.org true",
            "attacker 3000 attacker-3000-alice.labs.example.org false",
            "target 8080 target-alice.labs.example.org false",
            "target 9090 target-9090-alice.labs.example.org false",
        ]
    );
    assert!(addresses(&everything(), &gateway()).iter().all(|address| address.https));
    assert!(addresses(&everything(), &traefik()).iter().all(|address| !address.https));
    assert_eq!(addresses(&everything(), &Options::new(KubevirtVersion::V1_9, "x")), []);
}

#[test]
fn a_password_that_the_front_door_does_not_take() {
    let options = Options::new(KubevirtVersion::V1_9, "lab-alice");
    let error = session_secrets(&everything(), &options, &|_| "größe".to_owned()).unwrap_err();
    assert_eq!(error.to_string(), "machine `attacker`: the front door does not take the password of `student`");
}
