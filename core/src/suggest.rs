/// The candidate that `word` was most likely meant to be, if one is close enough.
///
/// Close enough means an edit distance (with transpositions) of at most a third of the word, at least one.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn suggests_only_what_is_close() {
        assert_eq!(did_you_mean("pakages", ["packages", "users"]), Some("packages"));
        assert_eq!(did_you_mean("Users", ["packages", "users"]), Some("users"));
        assert_eq!(did_you_mean("network", ["packages", "users"]), None);
    }
}
