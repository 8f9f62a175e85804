//! Layers of lab bundles that strangers made to do harm.

use std::io::Write as _;

use crate::common::causes;
use labwright_registry::bundle::{MAX_MEMBERS, MAX_UNPACKED, unpack};

/// A member of a hostile archive: name, type, content.
fn member(name: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.as_mut_bytes()[156] = kind;
    header.set_cksum();
    let mut bytes = [header.as_bytes().as_slice(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn hostile_layers_are_refused() {
    let file = |name: &str| member(name.as_bytes(), b'0', b"x");
    let good = archive(&[file("a"), member(b"d/", b'5', b""), file("d/a")]);
    assert_eq!(unpack(&gzip(&good)).unwrap().len(), 2);
    // Without an end mark, nobody knows whether something is missing.
    let endless = good[..good.len() - 1024].to_vec();
    let mut wrong_sum = gzip(&good);
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    let mut base_256 = file("a");
    base_256[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0]);
    let mut header = tar::Header::from_byte_slice(&base_256[..512]).clone();
    header.set_cksum();
    let too_long = [header.as_bytes().as_slice(), &[0; 1024]].concat();
    let many: Vec<_> = (0..=MAX_MEMBERS).map(|at| file(&format!("f{at}"))).collect();
    let bomb = vec![0; usize::try_from(MAX_UNPACKED).unwrap() + 1];
    let huge_bomb = gzip(&vec![0; 100 << 20]);
    assert!(huge_bomb.len() < 1 << 20);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("absolute", gzip(&archive(&[file("/etc/passwd")])), "leaves the directory"),
        ("upwards", gzip(&archive(&[file("a/../../b")])), "leaves the directory"),
        ("dot", gzip(&archive(&[file("./a")])), "can be said in a shorter way"),
        ("slashes", gzip(&archive(&[file("a//b")])), "can be said in a shorter way"),
        ("root", gzip(&archive(&[member(b"./", b'5', b"")])), "can be said in a shorter way"),
        ("symbolic link", gzip(&archive(&[member(b"a", b'2', b"")])), "`a` is neither a file nor a directory"),
        ("hard link", gzip(&archive(&[member(b"a", b'1', b"")])), "neither a file nor a directory"),
        ("character device", gzip(&archive(&[member(b"a", b'3', b"")])), "neither a file nor a directory"),
        ("block device", gzip(&archive(&[member(b"a", b'4', b"")])), "neither a file nor a directory"),
        ("fifo", gzip(&archive(&[member(b"a", b'6', b"")])), "neither a file nor a directory"),
        ("unknown type", gzip(&archive(&[member(b"a", b'Z', b"")])), "neither a file nor a directory"),
        ("sparse", gzip(&archive(&[member(b"a", b'S', b"")])), "sparse file"),
        ("twice", gzip(&archive(&[file("a"), file("a")])), "another member has the same name"),
        ("by case", gzip(&archive(&[file("a"), file("A")])), "another member has the same name"),
        ("file as directory", gzip(&archive(&[file("a"), file("a/b")])), "another member has the same name"),
        ("directory as file", gzip(&archive(&[file("a/b"), file("a")])), "another member has the same name"),
        ("not text", gzip(&archive(&[member(b"a\xff", b'0', b"")])), "is not text"),
        ("control", gzip(&archive(&[file("a\x1b[2J")])), "`a\\u{1b}[2J` cannot be used"),
        ("pax path", gzip(&archive(&[member(b"x", b'x', b"11 path=/b\n"), file("a")])), "extended header at byte 0"),
        ("pax size", gzip(&archive(&[member(b"x", b'x', b"10 size=9\n"), file("a")])), "extended header at byte 0"),
        (
            "pax sparse",
            gzip(&archive(&[member(b"x", b'x', b"22 GNU.sparse.major=1\n"), file("a")])),
            "extended header at byte 0",
        ),
        ("pax for all", gzip(&archive(&[member(b"x", b'g', b"10 path=b\n"), file("a")])), "extended header at byte 0"),
        (
            "long name",
            gzip(&archive(&[file("a"), member(b"x", b'L', b"b"), file("c")])),
            "extended header at byte 1024",
        ),
        ("too many", gzip(&archive(&many)), "more than 1000 members"),
        ("bomb", gzip(&bomb), "unpacks to more than 16777216 bytes"),
        ("huge bomb", huge_bomb, "unpacks to more than 16777216 bytes"),
        ("too long a member", gzip(&too_long), "unexpected end of file"),
        ("no end mark", gzip(&endless), "ends too early"),
        ("second archive", gzip(&[good.clone(), good.clone()].concat()), "something follows"),
        ("second gzip member", [gzip(&good), gzip(&good)].concat(), "something follows"),
        ("garbage", [gzip(&good), b"garbage".to_vec()].concat(), "something follows"),
        ("zeros", [gzip(&good), vec![0; 512]].concat(), "something follows"),
        ("cut gzip", gzip(&good)[..60].to_vec(), "not a whole gzip stream"),
        ("wrong checksum", wrong_sum, "not a whole gzip stream"),
        ("plain", good.clone(), "not a whole gzip stream"),
        ("nothing", Vec::new(), "not a whole gzip stream"),
        ("empty archive", gzip(&[]), "ends too early"),
        ("too large", vec![0; (16 << 20) + 1], "it has 16777217 bytes"),
    ];
    for (what, layer, part) in cases {
        let error = causes(&unpack(&layer).expect_err(what));
        assert!(error.contains(part), "{what}: {error}");
    }
}
