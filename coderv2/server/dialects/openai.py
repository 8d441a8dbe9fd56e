"""OpenAI's list of models, and DeepSeek's balance."""

from fastapi import FastAPI
from starlette.responses import Response

from coderv2.server.door import Door, json_response


def add_routes(app: FastAPI, door: Door) -> None:
    """`GET /models`, `GET /models/{name}`, `GET /user/balance`."""

    @app.get("/models")
    async def get_models() -> Response:
        return json_response({"object": "list", "data": [door.served().card()]})

    @app.get("/models/{name:path}")
    async def get_model(name: str) -> Response:
        models = door.served()
        models.check(name)
        return json_response(models.card())

    @app.get("/user/balance")
    async def get_balance() -> Response:
        """Nothing is charged here: available, and no balances."""
        return json_response({"is_available": True, "balance_infos": []})
