//! What is written is read again the same, by a reader of YAML 1.2 and by one of YAML 1.1.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{Map, Yaml, write};

fn read(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Texts that some reader takes for something else, or that need care in some place.
const TEXTS: &[&str] = &[
    "",
    " ",
    "a",
    "y",
    "N",
    "yes",
    "No",
    "on",
    "OFF",
    "true",
    "False",
    "null",
    "Null",
    "~",
    "nan",
    ".nan",
    ".inf",
    "-.inf",
    "inf",
    "0",
    "1",
    "-1",
    "+1",
    "0644",
    "0o17",
    "0x1F",
    "0b11",
    "1_000",
    "1.5",
    "1.",
    ".5",
    "1e3",
    "1E3",
    "12:30",
    "12:30:45",
    "2001-01-01",
    "2001-01-01T00:00:00Z",
    "1.2.0",
    "1.2.0-rc.1",
    "10.0.0.0/8",
    "::/0",
    "fe80::/10",
    "4Gi",
    "500m",
    "0s",
    "1Ei",
    "<<",
    "=",
    "-",
    "- a",
    "-c",
    "? a",
    "?a",
    ": a",
    ":a",
    "a:",
    "a: b",
    "a:b",
    "a #b",
    "a#b",
    "#a",
    "[a]",
    "{a: b}",
    "*a",
    "&a",
    "!a",
    "|",
    ">",
    "%a",
    "@a",
    "`a`",
    "\"a\"",
    "'a'",
    "--- a",
];

fn samples() -> Vec<String> {
    let mut samples: Vec<String> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
    for text in [
        "a\nb",
        "a\nb\n",
        "a\nb\n\n\n",
        "a\n\n\nb",
        "\na\n",
        " a\nb",
        "a\n  b\n",
        "a\n  \nb\n",
        "a\n   ",
        "a \nb \n",
        "a\n\tb\n",
        "\ta",
        "a\tb",
        "a\r\nb\r\n",
        "a\n# b\n",
        "a\n---\nb\n",
        "a\n...\n",
        "\n",
        "\n\n",
        "größe",
        "ö: ä\nß\n",
        "日本語",
        "\u{1f600}",
        "\u{85}",
        "a\u{2028}b",
        "\u{feff}a",
        "\u{7f}",
        "\u{0}",
        "\u{1b}[0m",
        "a\\b",
        "it's 5 o'clock",
        "costs $5 (or $(x)), 10%; a=b?",
        "${name}",
        "{{ .Values.x }}",
        "  two  spaces  ",
        "trailing ",
        "#cloud-config\n\"a\": \"b\"\n",
        "a: |\n  b\n",
    ] {
        samples.push(text.to_owned());
    }
    samples
}

/// Words made of the pieces that matter, in all short orders.
fn words() -> Vec<String> {
    let pieces = ["a", "1", ".", ":", "-", " ", "\n", "e", "#", "'", "\"", "\\"];
    let pairs = pieces.iter().flat_map(|first| pieces.map(|second| format!("{first}{second}")));
    pairs.flat_map(|pair| pieces.map(|third| format!("{pair}{third}"))).collect()
}

/// Every sample in every place: as a value, as a key, in a list, in a list of lists.
fn document() -> Map {
    let mut places =
        Map::new().with("numbers", vec![0_i64, -7, i64::MAX]).with("truths", vec![true, false]).with("words", words());
    for (at, text) in samples().into_iter().enumerate() {
        let nested =
            Map::new().with("list", vec![text.clone(), "end".to_owned()]).with("inner", Map::new().with("x", &text));
        places.put(format!("sample-{at}"), &text);
        places.put(format!("nested-{at}"), vec![nested, Map::new()]);
        places.put(format!("lists-{at}"), Yaml::from(vec![vec![text.clone()], Vec::new(), vec!["end".to_owned()]]));
        // A key stands on one line, and an empty one is nobody's wish.
        places.put(format!("key-{at}"), Map::new().with(text, "value").with("end", Map::new()));
    }
    places
}

#[test]
fn a_reader_of_yaml_1_2_reads_what_was_written() {
    let document = document();
    assert_eq!(read(&write(&document)), serde_json::to_value(&document).unwrap());
    assert_eq!(write(&Map::new()), "{}\n");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test with a reader that is not ours; a skip must be seen")]
fn a_reader_of_yaml_1_1_reads_what_was_written() {
    let python = |script: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    if !python("import yaml").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|need| need == "pyyaml"), "LABWRIGHT_REQUIRE names pyyaml, which is missing");
        eprintln!("SKIPPED: needs pyyaml");
        return;
    }
    let document = document();
    let mut child =
        python("import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin.buffer), sys.stdout)").spawn().unwrap();
    child.stdin.take().unwrap().write_all(write(&document).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let again: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(again, serde_json::to_value(&document).unwrap());
}

#[test]
fn reads_well() {
    let container = Map::new()
        .with("name", "web")
        .with("image", "registry.example.org:5000/web@sha256:00ff")
        .with("args", ["--port", "8080"])
        .with("env", [Map::new().with("name", "LANG").with("value", "C.UTF-8")])
        .with("empty", Map::new());
    let document = Map::new()
        .with("kind", "Pod")
        .with("version", "1.10")
        .with("json", "[{\"a\": 1}]")
        .with("spec", Map::new().with("shared", false).with("containers", [container]))
        .with("script", "#!/bin/sh\necho \"hello\"\n");
    assert_eq!(
        write(&document),
        r#"kind: Pod
version: "1.10"
json: '[{"a": 1}]'
spec:
  shared: false
  containers:
    - name: web
      image: registry.example.org:5000/web@sha256:00ff
      args:
        - "--port"
        - "8080"
      env:
        - name: LANG
          value: C.UTF-8
      empty: {}
script: |
  #!/bin/sh
  echo "hello"
"#
    );
}

#[test]
fn a_map_keeps_its_order_and_one_value_for_each_key() {
    let map = Map::new()
        .with("z", 1_u16)
        .with("a", 2_u16)
        .with("z", 3_u16)
        .with_some("none", None::<u16>)
        .with_filled("list", Vec::<u16>::new())
        .with_filled("map", Map::new())
        .with_filled("text", "");
    let pairs: Vec<(&str, &Yaml)> = map.iter().collect();
    assert_eq!(pairs, [("z", &Yaml::Int(3)), ("a", &Yaml::Int(2)), ("text", &Yaml::Text(String::new()))]);
    assert_eq!(Yaml::from(Map::new().with("m", map)).at(&["m", "a"]), Some(&Yaml::Int(2)));
}
