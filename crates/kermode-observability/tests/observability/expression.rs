//! Metrics and labels in an expression of PromQL. Promtool checks the syntax, so this reader assumes that it is correct.

use std::collections::{BTreeMap, BTreeSet};

/// Words that are not metrics, although no parenthesis follows them.
const KEYWORDS: [&str; 8] = ["and", "or", "unless", "bool", "offset", "inf", "nan", "atan2"];
/// Words whose parentheses contain labels.
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Metrics and labels of an expression.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expression {
    /// Metrics, with the labels by which the expression selects their series.
    pub(crate) metrics: BTreeMap<String, BTreeSet<String>>,
    /// Labels of `by`, `on` and similar words.
    pub(crate) grouping: BTreeSet<String>,
}

/// Word or character of an expression. Strings, numbers and durations are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Character(char),
}

impl Expression {
    /// Reads an expression.
    pub(crate) fn parse(text: &str) -> Self {
        let tokens = tokens(text);
        let mut expression = Self::default();
        let mut rest = tokens.as_slice();
        while let [token, after @ ..] = rest {
            rest = after;
            let Token::Word(word) = token else { continue };
            match after.first() {
                Some(Token::Character('(')) if GROUPINGS.contains(&word.as_str()) => {
                    let labels = enclosed(after, ')');
                    rest = &after[labels.len()..];
                    expression.grouping.extend(words(labels));
                }
                // A function, or an aggregation without a grouping before its argument.
                Some(Token::Character('(')) => {}
                Some(Token::Character('{')) => {
                    let matchers = enclosed(after, '}');
                    rest = &after[matchers.len()..];
                    let labels = expression.metrics.entry(word.clone()).or_default();
                    labels.extend(words(matchers));
                }
                Some(Token::Word(next)) if GROUPINGS.contains(&next.as_str()) => {}
                _ if KEYWORDS.contains(&word.as_str()) => {}
                _ => {
                    expression.metrics.entry(word.clone()).or_default();
                }
            }
        }
        expression
    }
}

/// Returns the tokens up to the closing character.
fn enclosed(tokens: &[Token], end: char) -> &[Token] {
    let length = tokens
        .iter()
        .position(|token| *token == Token::Character(end))
        .expect("a closing character");
    &tokens[..length]
}

fn words(tokens: &[Token]) -> impl Iterator<Item = String> {
    tokens.iter().filter_map(|token| match token {
        Token::Word(word) => Some(word.clone()),
        Token::Character(_) => None,
    })
}

fn tokens(text: &str) -> Vec<Token> {
    let is_part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let mut tokens = Vec::new();
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == '"' {
            while let Some(c) = characters.next() {
                match c {
                    '"' => break,
                    '\\' => _ = characters.next(),
                    _ => {}
                }
            }
        } else if is_part(&c) {
            let mut word = String::from(c);
            while let Some(c) = characters.next_if(is_part) {
                word.push(c);
            }
            // Numbers and durations begin with a digit.
            if !c.is_ascii_digit() {
                tokens.push(Token::Word(word));
            }
        } else if !c.is_whitespace() {
            tokens.push(Token::Character(c));
        }
    }
    tokens
}

#[test]
fn metrics_and_labels_of_an_expression_are_found() {
    let expression = Expression::parse(
        r#"1 - sum by (pod, le) (rate(a_total{x="b{}",y=~"\"z"}[5m])) / on(pod) group_left() b > 0.1e3 and max(c) without (x) or time()"#,
    );
    let labels = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let metrics = [
        ("a_total", labels(&["x", "y"])),
        ("b", labels(&[])),
        ("c", labels(&[])),
    ];
    assert_eq!(
        expression,
        Expression {
            metrics: metrics.map(|(name, labels)| (name.to_owned(), labels)).into(),
            grouping: labels(&["pod", "le", "x"]),
        }
    );
}
