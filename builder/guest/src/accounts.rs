//! Accounts as the guest's own files tell them; no name service is asked.

use rustix::fs::{Gid, Uid};

use crate::error::{Doing, StepError};
use crate::protocol::Owner;

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

/// Finds an account in the text of `/etc/passwd`.
fn find_account(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?.to_owned();
        Some(Account { uid, gid, home })
    })
}

/// Finds a group's number in the text of `/etc/group`.
fn find_group(group: &str, name: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Looks an account up; none if there is none.
pub(crate) fn account(name: &str) -> Result<Option<Account>, StepError> {
    let passwd = fs_err::read(PASSWD).doing("read", PASSWD)?;
    Ok(find_account(&String::from_utf8_lossy(&passwd), name))
}

/// Looks a group up, which must exist.
pub(crate) fn group(name: &str) -> Result<u32, StepError> {
    let group = fs_err::read(GROUP).doing("read", GROUP)?;
    find_group(&String::from_utf8_lossy(&group), name).ok_or_else(|| StepError::NoGroup { name: name.to_owned() })
}

/// The numbers of an owner, both of which must exist. A name of digits is a number.
pub(crate) fn owner(owner: &Owner) -> Result<(Uid, Gid), StepError> {
    let (uid, primary) = if let Ok(uid) = owner.user.parse() {
        (uid, 0)
    } else {
        let found = account(&owner.user)?.ok_or_else(|| StepError::NoUser { name: owner.user.clone() })?;
        (found.uid, found.gid)
    };
    let gid = match &owner.group {
        None => primary,
        Some(name) => match name.parse() {
            Ok(gid) => gid,
            Err(_) => group(name)?,
        },
    };
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_from_their_files() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\n+::::::\nann:x:1000:100:Ann,,,:/home/ann:/bin/sh\n";
        let ann = Account { uid: 1000, gid: 100, home: "/home/ann".to_owned() };
        assert_eq!(find_account(passwd, "ann"), Some(ann));
        assert_eq!(find_account(passwd, "an"), None);
        assert_eq!(find_account(passwd, "broken"), None);
        let group = "root:x:0:\nsudo:x:27:ann\nbad:x:y:\n";
        assert_eq!(find_group(group, "sudo"), Some(27));
        assert_eq!(find_group(group, "bad"), None);
        assert_eq!(find_group(group, "ann"), None);
    }
}
