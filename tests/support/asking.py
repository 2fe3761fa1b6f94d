"""What the tests of the client share: a judge at a server, requests, and a look into the ledger."""

from nbutils.core.judge_settings import JudgeModel
from nbutils.llm.client import Request, ask_all
from nbutils.llm.endpoint import OpenAIBackend

CANARY = "sk-canary-4f1d8e72b09a"


def judge_at(url, **options):
    fields = {"name": "fake", "kind": "openai", "model": "fake-1", "key_variable": "LIM_TEST_KEY"}
    return JudgeModel(base_url=url, **fields | options)


def questions(*texts):
    return [Request("somewhere", "fake-1", (("system", "Be brief."), ("user", text)), 16) for text in texts]


def ask(server, ledger, *texts, **options):
    return ask_all(questions(*texts), OpenAIBackend(judge_at(server.url, **options)), ledger, "test")


def count(ledger, table):
    return ledger.execute(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608


def echo(number, question):
    return f"you said {question}"
