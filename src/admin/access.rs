//! Who calls: the peer's user and groups, matched against `[[admin.principal]]`. Default deny.

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A principal of the config.
#[derive(Debug, Clone, Default)]
pub struct Principal {
    /// Its name.
    pub name: String,
    /// User id, if given.
    pub uid: Option<u32>,
    /// Group id, if given.
    pub gid: Option<u32>,
    /// User name, if given.
    pub user: Option<String>,
    /// Group name, if given.
    pub group: Option<String>,
    /// Its roles.
    pub roles: Vec<String>,
}

/// The role of root where no principal names it.
pub const BREAK_GLASS: &str = "breakglass";
/// The user of unmapped identities: never let in.
const NOBODY_UID: u32 = 65_534;

/// The table of principals.
#[derive(Debug, Clone)]
pub struct Access {
    principals: Vec<Principal>,
    own_uid: u32,
}

impl Access {
    /// A table; without any principal, the user that runs the daemon is the only one, with every role.
    #[must_use]
    pub fn new(principals: Vec<Principal>) -> Access {
        Access {
            principals,
            own_uid: Uid::effective().as_raw(),
        }
    }

    /// The roles of a peer; `None`: no principal fits, nothing is allowed. User rules win over group rules.
    #[must_use]
    pub fn roles(&self, uid: u32, gid: u32) -> Option<Vec<String>> {
        if uid == NOBODY_UID {
            return None;
        }
        let all = || vec![BREAK_GLASS.to_string()];
        if self.principals.is_empty() {
            return (uid == self.own_uid || uid == 0).then(all);
        }
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = user.as_ref().map(|u| u.name.as_str());
        let by_user = self
            .principals
            .iter()
            .find(|p| p.uid == Some(uid) || (p.user.is_some() && p.user.as_deref() == name));
        if let Some(principal) = by_user {
            return Some(principal.roles.clone());
        }
        let groups = groups_of(user.as_ref(), gid);
        let by_group = self.principals.iter().find(|p| {
            let named = p
                .group
                .as_deref()
                .and_then(|g| Group::from_name(g).ok().flatten())
                .map(|g| g.gid.as_raw());
            [p.gid, named].into_iter().flatten().any(|g| groups.contains(&g))
        });
        match by_group {
            Some(principal) => Some(principal.roles.clone()),
            None => (uid == 0).then(all),
        }
    }
}

/// SO_PEERCRED gives the primary group only; the others come from the group database.
fn groups_of(user: Option<&User>, gid: u32) -> Vec<u32> {
    let mut groups = vec![gid];
    if let Some(user) = user
        && let Ok(name) = std::ffi::CString::new(user.name.as_str())
        && let Ok(more) = getgrouplist(&name, Gid::from_raw(gid))
    {
        groups.extend(more.into_iter().map(Gid::as_raw));
    }
    groups
}

/// Whether any of `roles` may call a method for `allowed`.
#[must_use]
pub(super) fn allowed(roles: &[String], allowed: &[&str]) -> bool {
    roles
        .iter()
        .any(|r| r == BREAK_GLASS || allowed.contains(&r.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(uid: Option<u32>, gid: Option<u32>, roles: &[&str]) -> Principal {
        Principal {
            uid,
            gid,
            roles: roles.iter().map(|r| (*r).to_string()).collect(),
            ..Principal::default()
        }
    }

    #[test]
    fn who_is_not_named_is_denied_and_user_rules_win() {
        let access = Access::new(vec![
            principal(None, Some(70_001), &["noc"]),
            principal(Some(70_000), None, &["finance"]),
        ]);
        assert_eq!(access.roles(70_000, 70_001), Some(vec!["finance".into()]));
        assert_eq!(access.roles(70_002, 70_001), Some(vec!["noc".into()]));
        assert_eq!(access.roles(70_002, 70_003), None);
        assert_eq!(
            access.roles(0, 0),
            Some(vec![BREAK_GLASS.into()]),
            "root where nobody names it"
        );
        let named = Access::new(vec![principal(Some(0), None, &["auditor"])]);
        assert_eq!(named.roles(0, 0), Some(vec!["auditor".into()]));
        assert_eq!(Access::new(vec![]).roles(NOBODY_UID, NOBODY_UID), None);
    }

    #[test]
    fn roles_are_matched_exactly() {
        assert!(allowed(&["finance".into()], &["finance"]));
        assert!(!allowed(&["financ".into(), String::new()], &["finance"]));
        assert!(allowed(&[BREAK_GLASS.into()], &["finance"]));
    }
}
