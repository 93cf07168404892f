"""What devices tell of their work while it goes on."""

import pytest

pytest.importorskip("distributed")

from edgeres.fleet import status

CELLS = [{"precision": "fp32"}, {"precision": "int8"}]


def test_a_job_is_told_in_a_few_words() -> None:
    assert status.describe("finish", {"target": "openvino:cpu", "cells": CELLS}) == "finish openvino:cpu fp32 int8"
    assert status.describe("gather", {"target": "", "range": [64, 128]}) == "gather images 64 to 128"


def test_the_last_result_is_a_latency_or_what_went_wrong() -> None:
    request = {"target": "openvino:cpu", "cells": CELLS}
    known = [{"known": {"latency": {"p50": 12.344}}}, {"known": {"status": "failed"}}]
    told = status.outcome("finish", request, {"value": {"cells": known}})
    assert told == "openvino:cpu fp32 12.34 ms, openvino:cpu int8 failed"
    assert status.outcome("gather", {"range": [0, 64]}, {"value": {}}) == "gather images 0 to 64: done"
    assert status.outcome("finish", {}, {"error": "EdgeresError", "message": "no room"}) == "finish: no room"
