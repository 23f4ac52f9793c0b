"""FastAPI, python-jose and ONNX Runtime: the service that is written first. serve.py PORT WORKERS MODEL.onnx ...

POST /token checks a password and gives a JWT; POST /MODEL/predict asks for it. One process a core, as uvicorn's own
deployment page has it, and one thread a run. Every other setting is the default, the access log too.
"""

import hashlib
import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm
from jose import JWTError, jwt
from pydantic import BaseModel

SECRET = os.environ["JWT_SECRET"]
SALT = b"only for a benchmark"


def password_hash(password):
    return hashlib.scrypt(password.encode(), salt=SALT, n=2**14, r=8, p=1)


USERS = {"caller": {"username": "caller", "password": password_hash(os.environ["CALLER_PASSWORD"]), "disabled": False}}

app = FastAPI()
bearer = OAuth2PasswordBearer(tokenUrl="token")


@app.post("/token")
def token(form: OAuth2PasswordRequestForm = Depends()):
    user = USERS.get(form.username)
    if user is None or user["password"] != password_hash(form.password):
        raise HTTPException(400, "incorrect username or password")
    claims = {"sub": form.username, "exp": datetime.now(timezone.utc) + timedelta(hours=1)}
    return {"access_token": jwt.encode(claims, SECRET, algorithm="HS256"), "token_type": "bearer"}


async def current_user(token: str = Depends(bearer)):
    try:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    except JWTError:
        raise HTTPException(401, "could not validate credentials", headers={"WWW-Authenticate": "Bearer"})
    user = USERS.get(claims.get("sub"))
    if user is None or user["disabled"]:
        raise HTTPException(401, "could not validate credentials", headers={"WWW-Authenticate": "Bearer"})
    return user


@app.get("/healthz")
def healthz():
    return {"status": "ok"}


class Rows(BaseModel):
    x: list[list[float]]


class Images(BaseModel):
    x: list[list[list[list[float]]]]


class Answer(BaseModel):
    probabilities: list[list[float]]


def serve(path):
    """Adds the route of one model. It blocks its process while it runs: with one a core, FastAPI's threads cost more."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    body = Images if len(session.get_inputs()[0].shape) == 4 else Rows

    @app.post(f"/{Path(path).stem}/predict")
    async def predict(request: body, user: dict = Depends(current_user)) -> Answer:
        (probabilities,) = session.run(None, {"x": np.array(request.x, dtype=np.float32)})
        return Answer(probabilities=probabilities.tolist())


if __name__ == "__main__":
    os.environ["MODELS"] = os.pathsep.join(sys.argv[3:])  # each worker imports this file again
    uvicorn.run("serve:app", host="127.0.0.1", port=int(sys.argv[1]), workers=int(sys.argv[2]))
else:
    for name in os.environ["MODELS"].split(os.pathsep):
        serve(name)
