//! The one network card, by netlink: QEMU's user network has fixed addresses.

use std::io;
use std::net::Ipv4Addr;

use labwright_guest::netlink::{LOOPBACK, REQUEST_ACK, ask, link_up};

/// The machine's address, and how many of its bits are the network's.
const ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 15), 24);
/// The way to everywhere else, which is the host's own loopback address too.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

const CARD: &str = "eth0";

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const CREATE: u16 = 0x400;
const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

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
    ask(RTM_NEWROUTE, REQUEST_ACK | CREATE, &body)
}

/// struct rtattr with a value of four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend_from_slice(&8_u16.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&value);
}
