use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::{MIN_SECRET, Secret};

/// A line of a secret that is shorter is no part of its own.
const MIN_PART: usize = 16;

/// One way in which a value may be written.
pub(super) struct Form {
    /// What people call the way.
    pub(super) encoding: &'static str,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// The ways in which a secret may turn up: as it is, in base64 behind anything, in hexadecimal, in URLs, in JSON.
pub(super) fn of(secret: &Secret) -> Vec<Form> {
    encodings(secret.essence())
}

/// As [`of`], and the same of each longer line: a secret of several fields leaks one by one.
pub(super) fn of_parts(secret: &Secret) -> Vec<Form> {
    let essence = secret.essence();
    let mut forms = encodings(essence);
    let armoured = essence.windows(11).any(|window| window == b"-----BEGIN ");
    // The first lines of all keys of a kind are equal, and would accuse this one wherever there is another.
    if !armoured {
        for line in essence.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
            if line.len() >= MIN_PART && line.len() < essence.len() {
                forms.extend(encodings(line));
            }
        }
    }
    forms
}

fn encodings(value: &[u8]) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    let mut add = |encoding, bytes: Vec<u8>| {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() >= MIN_SECRET && forms.iter().all(|form| form.bytes != bytes) {
            forms.push(Form { encoding, bytes });
        }
    };
    add("as it is", value.to_vec());
    for before in 0..3 {
        // The characters that hold bits of other bytes too are left out.
        let data = Zeroizing::new([&[0; 2][..before], value].concat());
        let from = [0, 2, 3][before];
        let to = data.len() * 8 / 6;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(engine.encode(&*data));
            add("in base64", text.as_bytes()[from..to].to_vec());
        }
    }
    let hex = |digits: &[u8; 16]| -> Vec<u8> {
        value.iter().flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]).collect()
    };
    add("in hexadecimal", hex(b"0123456789abcdef"));
    add("in hexadecimal", hex(b"0123456789ABCDEF"));
    add("URL-encoded", percent(value, b"0123456789ABCDEF", false));
    add("URL-encoded", percent(value, b"0123456789abcdef", false));
    add("URL-encoded", percent(value, b"0123456789ABCDEF", true));
    add("in JSON", json(value));
    forms
}

/// Percent-encoding; everything but the unreserved characters is encoded. Source: RFC 3986, section 2; the plus sign
/// for a space: HTML forms.
fn percent(value: &[u8], digits: &[u8; 16], plus: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(value.len() * 3);
    for &byte in value {
        match byte {
            b' ' if plus => text.push(b'+'),
            b'-' | b'.' | b'_' | b'~' => text.push(byte),
            _ if byte.is_ascii_alphanumeric() => text.push(byte),
            _ => text.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]),
        }
    }
    text
}

/// The inside of a JSON string, as most writers make it.
fn json(value: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(value.len() + 16);
    for &byte in value {
        match byte {
            b'\n' => text.extend(b"\\n"),
            b'\r' => text.extend(b"\\r"),
            b'\t' => text.extend(b"\\t"),
            b'"' | b'\\' => text.extend([b'\\', byte]),
            _ => text.push(byte),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &str) -> Vec<(&'static str, String)> {
        let secret = Secret::new(value.as_bytes().to_vec()).unwrap();
        of(&secret).into_iter().map(|form| (form.encoding, String::from_utf8(form.bytes.to_vec()).unwrap())).collect()
    }

    #[test]
    fn every_form_is_written_once() {
        assert_eq!(
            texts("pass word\"é\n"),
            [
                ("as it is", "pass word\"é".to_owned()),
                ("in base64", "cGFzcyB3b3JkIsOp".to_owned()),
                ("in base64", "Bhc3Mgd29yZCLDq".to_owned()),
                ("in base64", "wYXNzIHdvcmQiw6".to_owned()),
                ("in hexadecimal", "7061737320776f726422c3a9".to_owned()),
                ("in hexadecimal", "7061737320776F726422C3A9".to_owned()),
                ("URL-encoded", "pass%20word%22%C3%A9".to_owned()),
                ("URL-encoded", "pass%20word%22%c3%a9".to_owned()),
                ("URL-encoded", "pass+word%22%C3%A9".to_owned()),
                ("in JSON", "pass word\\\"é".to_owned()),
            ]
        );
    }

    #[test]
    fn base64_behind_and_before_anything_has_one_of_the_forms() {
        let forms: Vec<String> = texts("s3cr3t-/?value")
            .into_iter()
            .filter(|(name, _)| *name == "in base64")
            .map(|(_, text)| text)
            .collect();
        for before in 0..7 {
            for behind in 0..4 {
                let text = format!("{}s3cr3t-/?value{}", "x".repeat(before), "y".repeat(behind));
                for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    assert!(forms.iter().any(|form| encoded.contains(form)), "{before} {behind} {encoded}");
                }
            }
        }
    }

    #[test]
    fn longer_lines_count_alone_unless_they_are_armour() {
        let count = |value: &str| of_parts(&Secret::new(value.as_bytes().to_vec()).unwrap()).len();
        assert!(count("login me\npassword-of-the-mirror") > count("login me\npassword"));
        assert_eq!(count("-----BEGIN KEY-----\nAAAAAAAAAAAAAAAAAAAAAAAA"), count("-----BEGIN KEY-----\nBBBB"));
    }
}
