//! Many labs, each with other choices, and many operators: the rules hold for all of them.

use std::fmt::Write as _;

use labwright_lab::manifests::{Dns, Options, PodSecurity, PullPolicy, Router, Routes, ServiceKind, Tls};
use labwright_lab::resolved::KubevirtVersion;
use serde_json::Value;

use crate::labs::{Session, locked};
use crate::rules::{World, broken};
use crate::{goldens, labs, reach};

/// How many labs: enough that each pair of choices is made, in a few seconds.
const LABS: u64 = 100;

/// Choices that look random and are the same on any day (splitmix64).
struct Choices(u64);

impl Choices {
    fn below(&mut self, number: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % number as u64).unwrap()
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }
}

/// Names that meet each other's suffixes, and the longest one.
const NAMES: [&str; 6] = ["a", "a-doors", "a-3000", "a-env", "default", "a234567890123456789012345678901b"];
const NETWORKS: [&str; 3] = ["lan", "default", "n234567890123456789012345678901n"];

fn lab(choices: &mut Choices) -> String {
    let mut text = "apiVersion: labwright/v1alpha1\nkind: Lab\nmetadata: {name: generated, version: ".to_owned();
    text += choices.one(&["1.0.0", "1.0.0-rc.1", "1.0.0-a-", &format!("1.0.0-{}", "x".repeat(70))]);
    text += choices.one(&["}\n", ", title: \"'yes': #1\"}\n", ", title: on}\n"]);
    text += choices.one(&["", "session: {expires: 90m}\n"]);
    text += "secrets: {password: {type: password}, flag: {type: text, value: \"F{${{ hex(8) }}}\"}}\n";
    text += "networks:\n";
    for network in NETWORKS {
        writeln!(text, "  - {{name: {network}, cidr: 10.1.0.0/16, internet: {}}}", choices.one(&["true", "false"]))
            .unwrap();
    }
    text += "machines:\n";
    let names = &NAMES[..=choices.below(NAMES.len())];
    for (at, name) in names.iter().enumerate() {
        writeln!(text, "  - name: {name}\n    image: registry.example.org/{name}:1").unwrap();
        text += choices.one(&["", "    hidden: true\n"]);
        text += choices.one(&["", "    ready: {timeout: 1s}\n", "    ready: {timeout: 2h}\n"]);
        text += "    interfaces:\n";
        let first = choices.below(NETWORKS.len());
        for network in &NETWORKS[first..=first + choices.below(NETWORKS.len() - first)] {
            let address = [String::new(), format!(", address: 10.1.1.{}", at + 10)];
            writeln!(text, "      - {{network: {network}{}}}", address[choices.below(2)]).unwrap();
        }
        if choices.below(3) == 0 { container(choices, &mut text) } else { virtual_machine(choices, &mut text) }
    }
    text += choices.one(&[
        "",
        "kubevirt: {networks: {default: segment}}\n",
        "kubevirt: {networks: {lan: a/b, default: c}}\n",
    ]);
    text
}

fn container(choices: &mut Choices, text: &mut String) {
    *text += "    kind: container\n";
    *text += choices.one(&["", "    resources: {cpus: 3, memory: 1000Mi}\n"]);
    *text += choices.one(&["", "    command: [sh, -c, 'echo $$ $(x)']\n", "    args: ['-', '1', 'yes']\n"]);
    *text += choices.one(&[
        "",
        "    env: {A: 'no', B: '$(A)'}\n",
        "    env: {A: '', B: \"x${{ secrets.flag }}$$\", C: \"${{ secrets.flag }}\"}\n",
    ]);
    *text += choices.one(&[
        "",
        "    access: [{name: web, type: http, port: 8080}]\n",
        "    access: [{name: web, type: http, port: 9090}, {name: more, type: http, port: 3000}]\n",
    ]);
}

fn virtual_machine(choices: &mut Choices, text: &mut String) {
    let password = choices.below(2) == 0;
    let users = [
        "",
        "    users: [{name: root, ssh_authorized_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHt0dGVzdGtleXRlc3RrZXl0ZXN0a2V5dGVzdGtleXRl x]}]\n",
    ];
    *text += if password {
        "    users: [{name: student, password: \"${{ secrets.password }}\"}]\n"
    } else {
        users[choices.below(2)]
    };
    let doors: &[&str] = if password {
        &[
            "[shell]",
            "[shell, desktop, site]",
            "[site, console]",
            "[shell, {name: web, type: http, port: 9090}]",
            "[screen]",
        ]
    } else {
        &["[]", "[site]", "[console, screen]", "[{name: web, type: http, port: 8080}]"]
    };
    writeln!(text, "    access: {}\n    kubevirt:", choices.one(doors)).unwrap();
    writeln!(text, "      run_strategy: {}", choices.one(&["Always", "RerunOnFailure", "Manual", "Halted", "Once"]))
        .unwrap();
    *text += choices.one(&[
        "",
        "",
        "      instancetype: u1.small\n",
        "      instancetype: {name: small, kind: namespace}\n",
    ]);
    *text += choices.one(&["", "      preference: debian\n", "      preference: {name: odd, kind: namespace}\n"]);
    *text += choices.one(&[
        "",
        "      storage: {}\n",
        "      storage: {size: 8Gi}\n",
        "      storage: {size: 33Gi, class: fast}\n",
    ]);
    *text += choices.one(&[
        "",
        "      volumes: [{name: scratch, empty_disk: 1Gi}, {name: x, claim: y}, {name: z, ephemeral: y}]\n",
        "      volumes: [{name: c, config_map: c}, {name: s, secret: s}, {name: t, service_account: default}]\n",
    ]);
}

fn options(choices: &mut Choices) -> Options {
    let version = KubevirtVersion::ALL[choices.below(5)];
    let range = |text: &str| vec![text.parse().unwrap()];
    let tls = [Tls::Off, Tls::Default, Tls::Secret("tls".to_owned())];
    let router = match choices.below(4) {
        0 => None,
        1 => Some(Router::Gateway { name: "g".to_owned(), namespace: "gs".to_owned(), section: None }),
        2 => Some(Router::Ingress { class: None, tls: tls[choices.below(3)].clone() }),
        _ => Some(Router::Traefik { entry_point: "websecure".to_owned(), tls: tls[choices.below(3)].clone() }),
    };
    let by = |router| Routes { host: "bob.labs.example.org".to_owned(), namespace: "ingress".to_owned(), router };
    Options {
        routes: router.map(by),
        service: match choices.below(4) {
            0 => ServiceKind::ClusterIp,
            1 => ServiceKind::NodePort { clients: range("192.0.2.0/24") },
            2 => ServiceKind::LoadBalancer { clients: range("2001:db8::/32") },
            _ => ServiceKind::LoadBalancer { clients: Vec::new() },
        },
        pull_secret: [None, Some("pull".to_owned())][choices.below(2)].clone(),
        pull_policy: [PullPolicy::IfNotPresent, PullPolicy::Always, PullPolicy::Never][choices.below(3)],
        pod_security: [PodSecurity::Baseline, PodSecurity::Restricted][choices.below(2)],
        dns: [Dns::KubeDns, Dns::NodeLocal(Dns::NODE_LOCAL), Dns::OpenShift][choices.below(3)].clone(),
        ..Options::new(version, "lab-bob")
    }
}

#[test]
fn the_rules_hold_for_every_lab() {
    for number in 0..LABS {
        let mut choices = Choices(number);
        let text = lab(&mut choices);
        let lab = locked(&text);
        let options = options(&mut choices);
        let session = Session::of(&lab, &options);
        let objects = session.objects();
        let world = World { namespace: "lab-bob".to_owned(), version: options.version };
        let mut found = broken(&objects, &world);
        found.extend(reach::wrong(&lab, &options, &objects));
        assert!(found.is_empty(), "lab {number}: {found:#?}\n{text}\n{options:#?}");
        // A learner's secret stands in Secrets only, and the text says what the objects say.
        for file in &session.manifests.files {
            let yaml = file.yaml();
            assert!(!yaml.contains("value-of-") && !yaml.contains("kind: Secret"), "lab {number}: {yaml}");
            let again: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
            assert_eq!(again, serde_json::to_value(&file.objects).unwrap().as_array().unwrap().clone(), "lab {number}");
        }
        assert_eq!(Session::of(&locked(&text), &options).manifests, session.manifests, "the same on any day");
    }
}

#[test]
fn the_rules_hold_for_the_lab_that_uses_everything() {
    for options in [goldens::gateway(), goldens::ingress(), goldens::traefik()] {
        let objects = Session::of(&labs::everything(), &options).objects();
        let world = World { namespace: "lab-alice".to_owned(), version: options.version };
        assert_eq!(broken(&objects, &world), Vec::<String>::new());
    }
}

/// The rules themselves see what they are for.
#[test]
fn the_rules_find_what_is_broken() {
    let options = goldens::gateway();
    let good = Session::of(&labs::everything(), &options).objects();
    let world = World { namespace: "lab-alice".to_owned(), version: KubevirtVersion::V1_6 };
    assert!(broken(&good, &world).iter().any(|what| what.contains("registry/platform` came with 1.7")));
    let world = World { version: options.version, ..world };
    let guest = "/spec/template/spec";
    let breaks: [(&str, &str, String, Value); 16] = [
        ("VirtualMachine", "attacker", "/spec/running".to_owned(), true.into()),
        ("VirtualMachine", "attacker", format!("{guest}/domain/memory"), Value::Null),
        ("VirtualMachine", "workstation", format!("{guest}/domain/cpu"), serde_json::json!({"cores": 1})),
        ("VirtualMachine", "attacker", format!("{guest}/domain/devices/interfaces/0/bridge"), serde_json::json!({})),
        ("VirtualMachine", "attacker", format!("{guest}/domain/devices/interfaces/1/name"), "other".into()),
        ("VirtualMachine", "attacker", format!("{guest}/domain/devices/disks/1/name"), "other".into()),
        ("VirtualMachine", "attacker", format!("{guest}/domain/devices/disks/1/bootOrder"), 1.into()),
        ("VirtualMachine", "attacker", format!("{guest}/readinessProbe/tcpSocket"), serde_json::json!({"port": 1})),
        ("VirtualMachine", "attacker", format!("{guest}/volumes/7/cloudInitNoCloud/secretRef/name"), "none".into()),
        ("VirtualMachine", "workstation", "/spec/dataVolumeTemplates/0/metadata/name".to_owned(), "other".into()),
        ("Pod", "target", "/spec/containers/0/env/0/valueFrom/secretKeyRef/key".to_owned(), "none".into()),
        ("Service", "attacker-doors", "/spec/ports".to_owned(), Value::Null),
        ("HTTPRoute", "attacker", "/spec/rules/0/backendRefs/0/port".to_owned(), 1.into()),
        ("NetworkPolicy", "internet-lan", "/spec/egress/0/to/0/ipBlock/cidr".to_owned(), "10.0.0.0/8".into()),
        ("ResourceQuota", "session", "/spec/hard/pods".to_owned(), "1".into()),
        ("Role", "learner", "/rules/0/resourceNames".to_owned(), serde_json::json!(["elsewhere"])),
    ];
    for (kind, name, pointer, value) in breaks {
        let mut objects = good.clone();
        let object = objects.iter_mut().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.unwrap().pointer_mut(parent).unwrap()[key] = value;
        let found = broken(&objects, &world);
        assert!(found.iter().any(|what| what.starts_with(&format!("{kind} `{name}`"))), "{pointer}: {found:?}");
    }
}
