use std::error::Error;

/// What an error says and why, outermost first.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        // Transparent errors say the same twice.
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        next = error.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the inner one")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Same(#[from] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("the middle one")]
    struct Middle(#[source] Inner);

    #[test]
    fn each_cause_is_said_once() {
        assert_eq!(causes(&Same(Middle(Inner))), ["the middle one", "the inner one"]);
    }
}
