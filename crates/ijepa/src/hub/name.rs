//! Which names do checkpoints have that are not paths?

use crate::exit::Failure;

/// Ends the file name of every checkpoint of the reference.
pub(super) const EXTENSION: &str = ".pth.tar";

/// The reference's downloads.
const REFERENCE: [&str; 4] =
    ["IN1K-vit.h.14-300e", "IN1K-vit.h.16-448px-300e", "IN22K-vit.h.14-900e", "IN22K-vit.g.16-600e"];

/// All names that are known by heart, for those who misspell one. Other repositories of the Hub need no list.
pub(super) const KNOWN: [&str; 12] = [
    "hf:facebook/ijepa_vith14_1k",
    "hf:facebook/ijepa_vith14_22k",
    "hf:facebook/ijepa_vith16_1k",
    "hf:facebook/ijepa_vitg16_22k",
    "hf:timm/vit_huge_patch14_gap_224.in1k_ijepa",
    "hf:timm/vit_huge_patch14_gap_224.in22k_ijepa",
    "hf:timm/vit_huge_patch16_gap_448.in1k_ijepa",
    "hf:timm/vit_giant_patch16_gap_224.in22k_ijepa",
    REFERENCE[0],
    REFERENCE[1],
    REFERENCE[2],
    REFERENCE[3],
];

/// A checkpoint that is not named by a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    Repo(RepoName),
    /// One of the reference's downloads, without its extension.
    Reference(&'static str),
}

/// A repository of the Hub, at a branch, tag or commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RepoName {
    /// `OWNER/NAME`.
    pub(super) id: String,
    pub(super) revision: String,
}

impl std::fmt::Display for RepoName {
    /// As the user says it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => write!(f, "hf:{}", self.id),
            revision => write!(f, "hf:{}@{revision}", self.id),
        }
    }
}

/// The name in `said`; none where it has no known form.
pub(super) fn parse(said: &str) -> Result<Option<Name>, Failure> {
    if let Some(id) = said.strip_prefix("hf:") {
        return match repo(id) {
            Some(repo) => Ok(Some(Name::Repo(repo))),
            None => {
                let problem = format!(
                    "{said} is not hf:OWNER/NAME or hf:OWNER/NAME@REVISION (letters, digits, `-`, `_` and `.`)"
                );
                let near = nearest(said).unwrap_or(KNOWN[0]);
                Err(Failure::usage(problem).remedy(format!("a name such as {near}")))
            }
        };
    }
    let bare = said.strip_suffix(EXTENSION).unwrap_or(said);
    Ok(REFERENCE.into_iter().find(|name| *name == bare).map(Name::Reference))
}

/// These parts become folder names of the cache and pieces of an address, so no odd characters and no way up.
fn repo(said: &str) -> Option<RepoName> {
    let (id, revision) = said.split_once('@').unwrap_or((said, "main"));
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let (owner, name) = id.split_once('/')?;
    let fine = plain(owner) && plain(name) && revision.split('/').all(plain);
    fine.then(|| RepoName { id: id.to_owned(), revision: revision.to_owned() })
}

/// The known name that is most like what was said, if any is.
pub(super) fn nearest(said: &str) -> Option<&'static str> {
    let bare = |name: &str| name.trim_start_matches("hf:").trim_end_matches(EXTENSION).to_lowercase();
    let said = bare(said);
    let likeness = |name: &'static str| {
        let name = bare(name);
        let tail = name.rsplit('/').next().unwrap_or(&name);
        strsim::normalized_levenshtein(&said, &name).max(strsim::normalized_levenshtein(&said, tail))
    };
    let best = KNOWN.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= 0.6).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_have_an_owner_a_name_and_perhaps_a_revision() {
        let parsed = |said: &str| match parse(said) {
            Ok(Some(Name::Repo(repo))) => Some((repo.id, repo.revision)),
            _ => None,
        };
        let repo = |id: &str, revision: &str| Some((id.to_owned(), revision.to_owned()));
        assert_eq!(parsed("hf:facebook/ijepa_vith14_1k"), repo("facebook/ijepa_vith14_1k", "main"));
        assert_eq!(parsed("hf:a/b.c@refs/pr/1"), repo("a/b.c", "refs/pr/1"));
        for wrong in
            ["hf:", "hf:a", "hf:a/", "hf:/b", "hf:a/b/c", "hf:a/..", "hf:a/b@", "hf:a/b@../x", "hf:a/b c", "hf:a/b@m@n"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn downloads_of_the_reference_are_known_with_and_without_their_extension() {
        for said in ["IN1K-vit.h.14-300e", "IN1K-vit.h.14-300e.pth.tar"] {
            assert!(matches!(parse(said), Ok(Some(Name::Reference("IN1K-vit.h.14-300e")))));
        }
        assert!(matches!(parse("runs/a/latest.safetensors"), Ok(None)));
    }

    #[test]
    fn a_misspelt_name_finds_the_right_one_and_a_path_finds_none() {
        assert_eq!(nearest("IN1K-vit.h14-300e"), Some("IN1K-vit.h.14-300e"));
        assert_eq!(nearest("facebook/ijepa_vith14_1k"), Some("hf:facebook/ijepa_vith14_1k"));
        assert_eq!(nearest("ijepa_vitg16_22"), Some("hf:facebook/ijepa_vitg16_22k"));
        assert_eq!(nearest("runs/photos/checkpoints/latest.safetensors"), None);
    }
}
