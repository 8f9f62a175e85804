//! The one network card, by netlink: QEMU's user network has fixed addresses.
//!
//! QEMU shows the host's loopback address, with everything that listens there, under an address of this network. The
//! machine's own rules of routing keep its programs from it: QEMU itself can only cut off everything. A step may not
//! change them (it lacks CAP_NET_ADMIN) nor write packets by itself (CAP_NET_RAW).

use std::io;
use std::net::Ipv4Addr;

use labwright_guest::netlink::{LOOPBACK, REQUEST_ACK, ask, link_up};

/// The machine's address, and how many of its bits are the network's.
const ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 15), 24);
/// The way to everywhere else, and as a destination the host's own loopback address.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

const CARD: &str = "eth0";

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const FRA_DST: u16 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_IP_PROTO: u16 = 22;
const FRA_DPORT_RANGE: u16 = 24;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_PROHIBIT: u8 = 8;
const TCP: u8 = 6;

/// The user network's resolver, which asks the host's.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Everything of the user network: nothing of it is out in the world.
const NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 0), 24);

/// The places of our rules, behind the one for the machine's own addresses (0) and before the one for all others (32766).
/// The first that fits counts.
const ALLOW: u32 = 100;
const REFUSE: u32 = 200;

/// Brings the loopback interface and the card up.
pub(crate) fn up() -> io::Result<()> {
    // The user network announces IPv6 also where the host has none: every connection would be tried in vain first.
    drop(fs_err::write(format!("/proc/sys/net/ipv6/conf/{CARD}/disable_ipv6"), "1"));
    let index = fs_err::read_to_string(format!("/sys/class/net/{CARD}/ifindex"))?;
    let index: u32 = index.trim().parse().map_err(io::Error::other)?;
    link_up(LOOPBACK)?;
    link_up(index)?;
    let (address, prefix) = ADDRESS;
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, address.octets());
    attribute(&mut body, IFA_ADDRESS, address.octets());
    ask(RTM_NEWADDR, REQUEST_ACK | CREATE, &body)?;
    // struct rtmsg: family, lengths of destination and source, type of service, table, protocol, scope, type, flags.
    let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    attribute(&mut body, RTA_GATEWAY, GATEWAY.octets());
    attribute(&mut body, RTA_OIF, index.to_ne_bytes());
    ask(RTM_NEWROUTE, REQUEST_ACK | CREATE, &body)?;
    rule(ALLOW, (RESOLVER, 32), FR_ACT_TO_TBL, None)?;
    rule(REFUSE, NETWORK, FR_ACT_PROHIBIT, None)
}

/// Lets programs reach a port on the host's loopback address, where a proxy listens.
pub(crate) fn allow(port: u16) -> io::Result<()> {
    match rule(ALLOW, (GATEWAY, 32), FR_ACT_TO_TBL, Some(port)) {
        // An earlier step needed it too.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Adds a rule for what goes to `to`, to one TCP port there if any is said.
fn rule(priority: u32, to: (Ipv4Addr, u8), action: u8, port: Option<u16>) -> io::Result<()> {
    // struct fib_rule_hdr: family, lengths of destination and source, type of service, table, two unused, action, flags.
    let mut body = vec![AF_INET, to.1, 0, 0, RT_TABLE_MAIN, 0, 0, action, 0, 0, 0, 0];
    attribute(&mut body, FRA_DST, to.0.octets());
    attribute(&mut body, FRA_PRIORITY, priority.to_ne_bytes());
    if let Some(port) = port {
        // A value of one byte, filled up to four.
        body.extend_from_slice(&5_u16.to_ne_bytes());
        body.extend_from_slice(&FRA_IP_PROTO.to_ne_bytes());
        body.extend_from_slice(&[TCP, 0, 0, 0]);
        // struct fib_rule_port_range: first, last.
        let [low, high] = port.to_ne_bytes();
        attribute(&mut body, FRA_DPORT_RANGE, [low, high, low, high]);
    }
    ask(RTM_NEWRULE, REQUEST_ACK | CREATE | EXCLUSIVE, &body)
}

/// struct rtattr with a value of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend_from_slice(&8_u16.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&value);
}
