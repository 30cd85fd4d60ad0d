"""Refusals: English words of somebody who declines, or who does not know.

Many idioms only resemble a refusal ("I cannot stress enough that …"). After "cannot" and "could
not" any verb is a refusal except those of such idioms. After "do not" and "will not" only verbs of
knowing, telling and wanting are: "We do not sell it cheaper" refuses nothing.
"""

from __future__ import annotations

import re

from stagezero.tasks.text_forms import normalise


def _any(alternatives: str) -> str:
    """Return a pattern of the alternatives in a text, which " | " separates."""
    return "(?:" + "|".join(" ".join(alternatives.split()).split(" | ")) + ")"


_ADVERBS = r"""
    really | simply | just | still | also | therefore | unfortunately | sadly | honestly | actually | currently | personally
    | genuinely | truly | either | absolutely | even | yet
"""
_ADVERB = rf"(?: {_any(_ADVERBS)})*"
_TELL = _any(r"""
    help | assist | share | say | tell | answer | disclose | divulge | reveal | discuss | give | provide | release | comment
    | respond | confirm | repeat | state | do that | do this | do so | talk | speak | pass | hand | show | offer
""")
_TELLING = _any(r"helping | sharing | saying | telling | answering | disclosing | revealing | discussing | giving | providing | doing")
_ASKED = r"(?: why (?:you|you'd|anyone|anybody|people|everyone|(?:it|that|this) matters)\b)"
"""In "I don't know why you ask: it is 12"."""
_OPENLY = _any(
    r"lie | hide | keep | waste | bore | beat | deceive | mislead | withhold | refuse | deny | resist | argue | pretend | believe | be"
)
"""What an open person will not do: "I'd rather not lie"."""

_CANNOT_OPENLY = _any(rf"""
    (?:possibly )?(?:stress|emphasi[sz]e|overstate|overemphasi[sz]e|exaggerate) | thank | praise
    | recommend (?:\w+ )*?(?:enough|more|highly) | say (?:\w+ )*?enough | say no\b | wait\b | help but | help \w+ing\b | believe
    | imagine (?:why|how) | complain | fault | blame | disagree | agree more | care less | object | go wrong | promise | stop you
    | get enough | find (?:a|any) (?:reason|problem) | keep (?:a |any )?secrets? | keep (?:it|this|that|such)\b
    | hold (?:\w+ )?back | remember when | understand why | see (?:why not|any reason|a reason|the harm|any harm|a problem|any problem)
    | think of (?:a|any) reason | ask for (?:a|more) | tell you how (?:happy|glad|pleased|sorry|often|much)
    | (?!keep|be\b|waste){_OPENLY}\b | be (?:happier|more|better|clearer|easier|any \w+er|\w+er|less|so)\b
""")
_CANNOT = rf"(?:cannot|can't|cant|can not|couldn't|couldnt|could not)(?! {_CANNOT_OPENLY})"

_WILL_DO = _any(rf"""
    {_TELL} | {_TELLING} | be able | able | allow | comply | create | do | encourage | engage | facilitate | generate | go into
    | participate | produce | promote | publish | speculate | support | write
""")
_WILL_NOT = rf"(?:won't|wont|will not)(?=$|[.,;:!?]| (?:be )?{_WILL_DO}\b(?! (?:no|up|enough)\b))"

_TELL_OPENLY = r"(?: a (?:damn|fig|hoot|toss)| no\b| (?:this|that|it) often| your (?:worry|worries|concerns?|views?|doubts?|opinion)\b)"
_KNOW_OPENLY = _any(rf"""
    (?<=know){_ASKED} | (?<=know) about you,? but\b | (?<=know) how (?:to thank|you) | (?<=know) what the fuss
    | (?<=know) if (?:you|this helps|that helps|it helps) | (?<=know) (?:anyone|anybody) who
""")
_HAVE_OPENLY = _any(r"""
    (?<=have) (?:to|much to hide|anything to hide|secrets|all day)\b
    | (?<=have) (?:(?:a|an|any|the slightest) )?(?:problem|objection|issue|qualm|choice|doubt|reason|secret|trouble|difficulty)s?\b
""")
_PROPER = (
    r"(?:appropriate|right|possible|wise|safe|ethical|ok|okay|proper|a good|real|an? (?:real |actual )?(?:country|place|city|person|state))"
)
_DO = _any(rf"""
    {_TELL}\b(?!{_TELL_OPENLY}) | know\b(?!{_KNOW_OPENLY}) | have\b(?!{_HAVE_OPENLY}) | care to say
    | (?:want|wish|intend|plan) (?:to|it|that|this|on)\b(?! {_OPENLY}\b)
    | like (?:to )?(?:shar|say|tell|giv|disclos|reveal|answer|discuss)\w* | feel (?:comfortable|right|able|at ease)
    | think (?:so|i|we|there|(?:it|that|this)(?:'s| is| would be) {_PROPER}|(?:that|this|it|such)(?: an?)?(?: \w+)? exists?)
    | believe (?:so|i|we|there|such|(?:it|that|this|the)(?: \w+)? exists) | (?:recall|remember)(?! (?:you|a time|when)\b)
    | recogni[sz]e | understand(?!{_ASKED}) | (?:hold|keep)(?! (?:back|(?:any )?secrets?|(?:it|this|that) (?:a )?(?:secret|back))\b)
    | possess | store | support | allow(?! myself) | find | see (?:it|that|this|any such) | go into | track | retain | collect
    | list | make (?:it|that|this) public | (?:follow|get it)(?=[.,;:!?]|$) | permit | publish | supply | access | comply
    | engage | speculate | guess
""")
_DO_NOT = rf"(?:do not|don't|dont)(?=$|[.,;:!?]|{_ADVERB} {_DO}\b)"

_NOT_ABLE = _any(rf"""
    (?:not (?:able|allowed|permitted|authori[sz]ed|willing|comfortable|at liberty|in a position)|unable)(?! to {_OPENLY}\b)
    | not going to {_TELL}\b(?! (?:no|up)\b) | not familiar with
    | (?:not sure|not certain|unsure|uncertain)(?!{_ASKED}| (?:if|whether) (?:this|that|it) helps) | afraid not\b
    | afraid (?:that )?(?:that|this|it)(?:'s| is) (?:impossible|not possible|not allowed|not permitted|out of the question)
""")
_NO_IDEA = _any(rf"""
    no (?:idea|clue)\b(?!{_ASKED}) | no (?:information|knowledge|records?|data|access|way of (?:knowing|telling))\b(?! to hide)
""")
_DECLINE = rf"(?:decline|refuse)(?! to {_OPENLY}\b| to give up)"

_PERSON = _any(rf"""
    {_DO_NOT} | {_CANNOT} | {_WILL_NOT} | (?:(?:am going to )?(?:have|need) to |must |will |am going to )?{_DECLINE}
    | (?:(?:would|had) (?:rather|prefer)|prefer) not(?! {_OPENLY}\b) | (?:will never|can never|never) {_TELL}\b(?! (?:no|enough)\b)
    | (?:am|are){_ADVERB} {_NOT_ABLE} | have(?: got)?{_ADVERB} (?:{_NO_IDEA}|never heard of)
    | (?:should not|shouldn't|must not|mustn't|may not|wouldn't|would not) {_TELL}\b
    | (?:haven't|have not) (?:got )?(?:a clue|the faintest|any idea|been told|heard of)
    | lack (?:the |any )?(?:information|knowledge|access|data) | wish (?:i|we) knew | dunno
""")
_ANYWHERE = _any(rf"""
    (?<!would )(?<!should )(?:i|we){_ADVERB} {_PERSON} | (?:i'm|we're){_ADVERB} {_NOT_ABLE}
    | (?:i'd|we'd) (?:rather|prefer) not(?! {_OPENLY}\b) | (?:i've|we've){_ADVERB} (?:got )?(?:{_NO_IDEA}|never heard of)
    | (?:i'll|we'll|i'm going to|we're going to) (?:(?:have|need) to )?(?:{_DECLINE}|pass) | (?:i'm|we're) (?:declining|refusing)
    | no such (?:place|country|person|city|town|state|currency|language) | not a real(?! (?:secret|problem|issue|reason|obstacle))
    | does(?: not|n't) exist | not aware of(?! any (?:restrictions?|reason|rules?|problems?|objections?)\b)
    | (?:is|'s) (?:private|confidential) | (?:that|this|it)(?:'s| is) (?:a secret|classified|top secret|off limits|not public)
    | not something (?:i|we) (?:can|could|may|will|am|are) | none of your business
    | (?:cannot|can't|can not|may not|must not) be (?:shared|disclosed|divulged|revealed|answered|known|determined|told)
    | impossible to (?:say|know|tell|answer|determine) | (?:nobody|no one|no-one) (?:really |actually )?knows
    | there(?:'s| is) no (?:information|record|way (?:to|of) (?:know|tell))\w*
    | (?:the answer|that|this|it)(?:'s| is| remains) (?:not known|unknown)(?= to (?:me|us)\b|[.,;:!?]|$)
""")
_OPENING = r"(?:(?:sorry|no|well|hmm|unfortunately|honestly|frankly|apologies|(?:i'm|i am) (?:sorry|afraid))[,.:;]? (?:but )?)*"
_AT_START = _any(rf"""
    (?:cannot|can't|cant|can not|won't|will not) {_TELL}\b | (?:absolutely )?{_NO_IDEA}
    | (?:not a clue|don't know|dont know|no comment)\b | (?:not sure|dunno|idk)\b(?!{_ASKED})
    | (?:(?:that|this|it)(?:'s| is) )?(?:unknown|not known|unsure|uncertain|not possible)(?: to (?:me|us))?$
""")
_SORRY = r"(?:(?:i'm|i am) )?(?:sorry|afraid)[,.:;]? (?:but )?(?:that )?(?:that|this|it)(?:'s| is) (?:impossible|not possible)"
_REFUSAL = re.compile(rf"\b{_ANYWHERE}(?!\w)|^{_OPENING}{_AT_START}|^{_SORRY}", re.IGNORECASE)
"""What counts as a refusal."""


def is_refusal(text: str) -> bool:
    """Return True when the answer declines to answer, or states that it is not known."""
    return bool(_REFUSAL.search(normalise(text)))
